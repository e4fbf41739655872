//! Dead letters that somebody has asked for once more.

use std::sync::Arc;

use super::super::attempt::Taken;
use super::{AGAIN_MAX, Sender, UNREADABLE};
use crate::feed::Event;
use crate::store::{Again, DeadLetter, Error, FeedRow};

impl Sender {
    /// Sends dead letters that are due, once each.
    pub(super) async fn send_again(&mut self) -> Result<(), Error> {
        let (store, me) = (Arc::clone(&self.parts.store), self.parts.me);
        let name = self.name().to_owned();
        let due = store.webhooks().due(&name, AGAIN_MAX).await?;
        self.may_be_due = due.len() == AGAIN_MAX as usize;
        // That of the event at the head, which another one does not set back.
        let failing = self.failing;
        for letter in due {
            let DeadLetter { revision, tx_id, body, .. } = letter;
            let row = FeedRow { revision, tx_id, body };
            let event = Event::read(&row.body);
            self.live.forget_asked();
            let taken = match &event {
                Some(event) => self.attempt(&row, event).await,
                None => None,
            };
            crash_point!("webhook-before-note");
            let is_gone = taken == Some(Taken::Gone);
            let is_due = self.live.is_asked(revision);
            let stays = |cause| Again::Stays { cause, is_due };
            let became = match taken {
                Some(Taken::Yes(_)) => Again::Taken,
                Some(Taken::Not(cause, _)) => stays(cause),
                Some(Taken::Gone) => stays("answered 410 Gone".to_owned()),
                None => stays(UNREADABLE.to_owned()),
            };
            let is_noted_due = is_due || became == Again::Taken;
            store.webhooks().sent_again(me, &name, revision, became).await?;
            // Somebody who has asked for it while that was noted was told that it is sent again.
            if !is_noted_due && self.live.is_asked(revision) {
                store.webhooks().send_again(me, &name, revision..=revision).await?;
            }
            if is_gone {
                return self.stop().await.map(drop);
            }
            self.failing = failing;
        }
        Ok(())
    }
}
