//! Numbers of the transactions of one namespace. The indexes by which all are counted do not tell namespaces apart, so a
//! bounded number of pages is looked through.

use unanimo_core::ids::NAMESPACE_END;
use unanimo_core::{Heuristic, Namespace, Timestamp};

use crate::api::Api;
use crate::api::access::Access;
use crate::engine::Error;
use crate::store::{AttentionCount, Filter, Found, PhaseCount, PhaseName};

/// Pages that are looked through for each of what is open, what has ended, and what needs a person: a page is some tens of
/// milliseconds of work at most. Where there are more, a number says that it is not the whole one.
const PAGES_MAX: usize = 20;

/// Transactions of such a page.
const PAGE: u32 = 500;

type Counts = (Vec<PhaseCount>, AttentionCount);

impl Api {
    /// Counts the transactions that this caller sees, who sees all of its namespace or of all.
    pub(in crate::api) async fn count_for(
        &self,
        access: &Access,
        ended_from: Option<Timestamp>,
    ) -> Result<Counts, Error> {
        match access.namespace() {
            None => self.engine.count(ended_from).await,
            Some(namespace) => self.count_inside(namespace, ended_from.unwrap_or_default()).await,
        }
    }

    async fn count_inside(
        &self,
        namespace: &Namespace,
        ended_from: Timestamp,
    ) -> Result<Counts, Error> {
        let (mut counts, mut attention) = (Vec::new(), AttentionCount::default());
        let all = PhaseName::ALL.map(|phase| PhaseCount { phase, count: 0, at_least: false });
        counts.extend(all);
        for is_end in [false, true] {
            let phases = PhaseName::ALL.into_iter().filter(|phase| phase.is_end() == is_end);
            let filter = Filter { phases: phases.collect(), ..of(namespace) };
            let is_whole = self
                .each(filter, |found| {
                    let Ok(stored) = found else { return };
                    let phase = stored.record.state.phase;
                    let counted = counts.iter_mut().find(|of| of.phase == PhaseName::of(phase));
                    let is_recent = phase.ended_at().is_none_or(|at| at >= ended_from);
                    if let Some(counted) = counted.filter(|_| is_recent) {
                        counted.count += 1;
                    }
                })
                .await?;
            let of_these = counts.iter_mut().filter(|of| of.phase.is_end() == is_end);
            of_these.for_each(|of| of.at_least = !is_whole);
        }
        let filter = Filter { attention: true, ..of(namespace) };
        self.each(filter, |found| match found {
            Err(_) => attention.unreadable += 1,
            Ok(stored) => {
                let state = &stored.record.state;
                attention.stalled += i64::from(state.is_held_up());
                attention.heuristic += i64::from(state.heuristic != Heuristic::None);
            }
        })
        .await?;
        Ok((counts, attention))
    }

    /// Looks at each transaction of a list, and tells whether these are all.
    async fn each(
        &self,
        mut filter: Filter,
        mut look: impl FnMut(&Found) + Send,
    ) -> Result<bool, Error> {
        for _ in 0..PAGES_MAX {
            let page = self.engine.list(&filter).await?;
            page.found.iter().for_each(&mut look);
            let Some(next) = page.next else { return Ok(true) };
            filter.before = Some(next);
        }
        Ok(false)
    }
}

fn of(namespace: &Namespace) -> Filter {
    let gid_prefix = format!("{namespace}{NAMESPACE_END}");
    Filter { gid_prefix, confined: true, limit: PAGE, ..Filter::default() }
}
