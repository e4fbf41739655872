//! Pages of the audit.

use unanimo_proto::v1;

use super::Error;
use super::line::{Head, Line, Place, Tail};
use crate::error::Error as CommandError;
use crate::progress::Progress;
use crate::tx::Server;
use crate::tx::client::{self, Client};

/// Things that are read.
pub(super) const ENTRIES: &str = "entries";

/// Reader of the audit, from its beginning on.
pub(super) struct Pages {
    client: Client,
    token: Option<String>,
    /// The last number that was read.
    read: u64,
}

/// Part of the audit.
pub(super) enum Part {
    Head(Head),
    Line(Box<Line>),
    Tail(Tail),
}

impl Pages {
    pub(super) async fn open(server: &Server) -> Result<Self, CommandError> {
        let client = Client::connect(server).await?;
        Ok(Self { client, token: Some(String::new()), read: 0 })
    }

    /// Gets a page.
    pub(super) async fn page(
        &mut self,
        page_size: u32,
        page_token: String,
        newest_first: bool,
    ) -> Result<v1::ListAuditResponse, CommandError> {
        let request = self.client.request(v1::ListAuditRequest {
            page_size,
            page_token,
            newest_first,
            requires: Vec::new(),
        });
        let page = self.client.operator.list_audit(request).await;
        Ok(page.map_err(client::Error::from)?.into_inner())
    }

    /// Hands everything over in order: the head, each entry, and the end as it was at the beginning or later. How far it is
    /// is told on standard error, unless the entries go to a terminal themselves.
    pub(super) async fn each(
        mut self,
        mut progress: Option<Progress>,
        mut take: impl FnMut(Part) -> Result<(), CommandError>,
    ) -> Result<(), CommandError> {
        let (mut last, mut count) = (None, 0);
        while let Some(token) = self.token.take() {
            let is_first = token.is_empty();
            let page = self.page(u32::MAX, token, false).await?;
            let purged = page.purged.as_ref().ok_or(Error::PartOnly)?;
            if is_first {
                let head = self.head(Place::from(purged)).await?;
                self.read = purged.number;
                take(Part::Head(head))?;
            } else if purged.number > self.read {
                return Err(Error::Purged.into());
            }
            // An entry that comes meanwhile is behind the end that was told first.
            last.get_or_insert(Place::from(page.last.as_ref().ok_or(Error::PartOnly)?));
            if is_first && let (Some(progress), Some(last)) = (&mut progress, &last) {
                progress.set_total(last.number.saturating_sub(self.read));
            }
            for line in page.entries.into_iter().map(Line::from) {
                self.read = line.number;
                if last.as_ref().is_some_and(|last| line.number > last.number) {
                    last = Some(Place { number: line.number, hash: line.hash.clone() });
                }
                take(Part::Line(Box::new(line)))?;
                count += 1;
            }
            if let Some(progress) = &mut progress {
                progress.at(count);
            }
            self.token = Some(page.next_page_token).filter(|token| !token.is_empty());
        }
        match last {
            Some(last) => take(Part::Tail(Tail { last })),
            None => Ok(()),
        }
    }

    async fn head(&mut self, purged: Place) -> Result<Head, CommandError> {
        let request = self.client.request(v1::GetServerInfoRequest {});
        let info = self.client.coordinator.get_server_info(request).await;
        let cluster_id = info.map_err(client::Error::from)?.into_inner().cluster_id;
        Ok(Head { unanimo_audit: super::line::FORMAT, cluster_id, purged })
    }
}
