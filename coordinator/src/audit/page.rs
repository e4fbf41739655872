//! Pages of the chain, each with the ends that belong to it.

use crate::store::{Audit, AuditEnds, AuditRange, AuditRow, Error};

/// Reads at most so many entries of a part, and the ends of the chain: the purge is as it was when the entries were
/// read, and the last entry as it was before.
///
/// # Errors
/// The store does not answer.
pub(crate) async fn page(
    audit: &dyn Audit,
    range: AuditRange,
    limit: u32,
) -> Result<(AuditEnds, Vec<AuditRow>), Error> {
    let mut ends = audit.ends().await?;
    loop {
        let rows = audit.page(range, limit).await?;
        let behind = audit.ends().await?;
        if behind.purged == ends.purged {
            return Ok((ends, rows));
        }
        // Entries were purged meanwhile: nobody knows whether the rows were read before.
        ends = behind;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Mutex, PoisonError};

    use async_trait::async_trait;
    use unanimo_core::{Incarnation, Timestamp};

    use super::*;
    use crate::store::AuditLink;

    fn link(number: u64) -> AuditLink {
        AuditLink { number, hash: vec![u8::try_from(number).unwrap_or(0); 32] }
    }

    /// Chain of ten entries, of which one is purged before each of the first reads.
    struct Purging {
        purged: Mutex<u64>,
        purges: u64,
    }

    #[async_trait]
    impl Audit for Purging {
        async fn ends(&self) -> Result<AuditEnds, Error> {
            let purged = *self.purged.lock().unwrap_or_else(PoisonError::into_inner);
            Ok(AuditEnds { purged: link(purged), last: link(10) })
        }

        async fn append(
            &self,
            _: Incarnation,
            _: AuditLink,
            _: Vec<AuditRow>,
            _: Option<AuditLink>,
        ) -> Result<bool, Error> {
            Ok(false)
        }

        async fn page(&self, _: AuditRange, limit: u32) -> Result<Vec<AuditRow>, Error> {
            let mut purged = self.purged.lock().unwrap_or_else(PoisonError::into_inner);
            *purged = self.purges.min(*purged + 1);
            let numbers = (*purged + 1..=10).take(limit as usize);
            let row = |number| AuditRow { link: link(number), at: Timestamp(0), body: Vec::new() };
            Ok(numbers.map(row).collect())
        }
    }

    #[tokio::test]
    async fn entries_follow_the_purge_that_is_told_with_them() {
        for purges in 0..3 {
            let audit = Purging { purged: Mutex::new(0), purges };
            let read = page(&audit, AuditRange::After(0), 4).await;
            let (ends, rows) = read.expect("a page");
            let numbers: Vec<u64> = rows.iter().map(|row| row.link.number).collect();
            let first = purges + 1;
            assert_eq!((ends.purged, ends.last), (link(purges), link(10)));
            assert_eq!(numbers, [first, first + 1, first + 2, first + 3]);
        }
    }
}
