//! Warnings of a participant at an address that other machines reach: what they can do with it.

use unanimo_tls::ServerFiles;

use crate::participant::accept::Accepted;

/// Says what is not protected; `None` if everything is.
pub(super) fn of(tls: Option<&ServerFiles>, accepted: &Accepted) -> Option<&'static str> {
    let is_anybody = accepted.is_anybody() && !tls.is_some_and(ServerFiles::has_client_ca);
    match (tls, is_anybody) {
        (Some(_), false) => None,
        (Some(_), true) => Some(
            "other machines can reach this address, and every caller is accepted: whoever reaches it can commit and \
             cancel branches; use ServerFiles::client_ca or Participant::accept, or Serve::insecure to allow it",
        ),
        (None, true) => Some(
            "other machines can reach this address, which has no TLS, and every caller is accepted: whoever reaches it can \
             commit and cancel branches, and whoever is on the way can read and change calls; use Serve::tls, and \
             ServerFiles::client_ca or Participant::accept, or Serve::insecure to allow it",
        ),
        (None, false) => Some(
            "other machines can reach this address, which has no TLS: whoever is on the way can read and change calls, and \
             a coordinator sends no token there; use Serve::tls, or Serve::insecure to allow it",
        ),
    }
}
