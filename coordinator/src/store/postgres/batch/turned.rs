//! A batch that met the turn of an epoch of names: what it begins is sent once more, under the epoch that is the last one now.

use super::super::super::{BatchError, Write};
use super::statement::{Columns, Look, Row};
use super::{Writer, indeterminate_of};

impl Writer {
    /// Sends the begins of a batch again, none of which was written, and adds what became of them. All else of the batch is
    /// committed, so an error tells nothing of that.
    pub(super) async fn begin_again(
        &mut self,
        batch: &[Write],
        rows: &mut Vec<Row>,
    ) -> Result<(), BatchError> {
        let begins: Vec<Write> =
            batch.iter().filter(|write| write.transition.begins.is_some()).cloned().collect();
        let epochs = self.epochs().await.map_err(indeterminate_of)?;
        let sent = self.send(&Columns::of(&begins), Look::All, Some(&epochs)).await;
        let again = sent.map_err(|error| BatchError::Indeterminate(error.into()))?;
        self.note_names(&begins, &again);
        let end = |rows: &[Row]| rows.iter().position(|row| row.tx_id.is_none());
        // Without the fence nothing more is told, as if there had been none from the start.
        let (Some(first), Some(second)) = (end(rows), end(&again)) else {
            *rows = again;
            return Ok(());
        };
        let before = rows.swap_remove(first).count.unwrap_or_default();
        let count = again[second].count.unwrap_or_default();
        if usize::try_from(count) == Ok(begins.len()) {
            let named = begins.iter().map(|write| Row::of(write.transition.tx_id.0));
            rows.extend(named);
        }
        rows.extend(again);
        let all = rows.iter_mut().filter(|row| row.tx_id.is_none());
        all.for_each(|row| row.count = Some(before + count));
        Ok(())
    }
}
