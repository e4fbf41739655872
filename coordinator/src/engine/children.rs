//! Children: transactions that are branches of others. Their names, and the answers that their parents
//! hear.

use unanimo_core::{BranchId, BranchNumber, Gid, Identity, Parent, Transaction, ids};

/// Answer to a parent that has decided.
#[derive(Debug)]
pub(crate) enum ChildEnd {
    /// The child has ended.
    Ended(Box<Transaction>),
    /// There is none, and never will be.
    None,
    /// Nobody knows of it any more.
    Unknown,
    /// It has not ended yet.
    Working,
}

/// Makes the gid of the child that a branch is. A repetition of the branch's Prepare finds the same
/// child by it.
#[must_use]
pub(crate) fn gid_of_child(parent: &Identity, id: &BranchId, number: BranchNumber) -> Gid {
    let long = format!("{}.{id}", parent.gid.local());
    // A tx_id and a number always fit.
    let short = || Gid::known(&format!("{}.{number}", parent.tx_id)).expect("it fits");
    let local = match long.len() <= ids::ID_BYTES_MAX {
        true => Gid::known(&long).unwrap_or_else(|_| short()),
        false => short(),
    };
    local.within(parent.gid.namespace().as_ref())
}

/// Returns the branch that a child is, and the transaction at the top.
#[must_use]
pub(crate) fn parent_of_child(parent: &Identity, number: BranchNumber) -> Parent {
    let root = parent.parent.map_or(parent.tx_id, |above| above.root);
    Parent { tx_id: parent.tx_id, number, root }
}

/// Tells whether the transaction is this branch of this parent. Others may have its gid: a client's own,
/// or the child of a parent whose gid and branch id make the same name.
pub(crate) fn is_child_of(tx: &Transaction, parent: Parent) -> bool {
    let own = tx.identity().parent;
    own.is_some_and(|own| (own.tx_id, own.number) == (parent.tx_id, parent.number))
}

#[cfg(test)]
mod tests {
    use unanimo_core::{Digest, Namespace, Origin, TxId};
    use uuid::Uuid;

    use super::*;

    fn identity(gid: &str) -> Identity {
        Identity {
            tx_id: TxId(Uuid::from_u128(7)),
            gid: Gid::new(gid).expect("a gid"),
            origin: Origin::Tombstone,
            digest: Digest::TOMBSTONE,
            created_at: Default::default(),
            deadline: Default::default(),
            start_at: None,
            locks: Vec::new(),
            parent: None,
            metadata: Default::default(),
            trace: Default::default(),
            initiator: String::new(),
        }
    }

    #[test]
    fn a_child_is_in_the_namespace_of_its_parent() {
        let tenant = Namespace::new("tenant-a").expect("a namespace");
        let (id, number) = (BranchId::new("ship").expect("an id"), BranchNumber::from_index(2));
        for (gid, expected) in [
            ("order-1", "tenant-a/order-1.ship".to_owned()),
            // Its length is that of the name in the namespace.
            (&"g".repeat(123), format!("tenant-a/{}.ship", "g".repeat(123))),
            (&"g".repeat(124), "tenant-a/00000000-0000-0000-0000-000000000007.3".to_owned()),
        ] {
            let plain = identity(gid);
            let parent = Identity { gid: plain.gid.clone().within(Some(&tenant)), ..plain };
            assert_eq!(gid_of_child(&parent, &id, number).as_str(), expected);
        }
    }

    #[test]
    fn a_child_has_its_parents_name_or_its_number_where_that_is_too_long() {
        let (id, number) = (BranchId::new("ship").expect("an id"), BranchNumber::from_index(2));
        for (gid, expected) in [
            ("order-1", "order-1.ship"),
            (&"g".repeat(123), &format!("{}.ship", "g".repeat(123))),
            (&"g".repeat(124), "00000000-0000-0000-0000-000000000007.3"),
        ] {
            assert_eq!(gid_of_child(&identity(gid), &id, number).as_str(), expected);
        }
    }
}
