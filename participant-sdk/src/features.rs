//! Features that this version knows: a coordinator may name them in `requires`.

use crate::refusal::Refusal;

/// Features of a participant, as it registers them. One that is not here is refused, and never
/// dropped: the work would mean something else without it.
///
/// - `must_succeed`: the work may only succeed; a refusal of it is not stored.
/// - `output_bytes_max`: work whose output is larger is rolled back and refused.
/// - `saga`, `tcc`, `two_phase_commit`: the modes of branches. A participant that knows a mode still
///   refuses an action that it does not offer in it.
/// - `step_inputs`: outputs of earlier steps reach the handler.
pub(crate) const FEATURES: [&str; 6] =
    [MUST_SUCCEED, "output_bytes_max", "saga", "step_inputs", "tcc", "two_phase_commit"];

/// The work may only succeed.
pub(crate) const MUST_SUCCEED: &str = "must_succeed";

/// Reason of the refusal of a feature that is not known, on every transport.
pub(crate) const FEATURE_UNSUPPORTED: &str = "FEATURE_UNSUPPORTED";

/// Reason of the refusal of an action that is not offered.
pub(crate) const ACTION_NOT_OFFERED: &str = "ACTION_NOT_OFFERED";

/// Reason of the refusal of an action that is offered in another mode.
pub(crate) const MODE_NOT_OFFERED: &str = "MODE_NOT_OFFERED";

/// Reason of the refusal of a payload that the handler cannot read.
pub(crate) const PAYLOAD_UNREADABLE: &str = "PAYLOAD_UNREADABLE";

/// Returns the vote no for the first feature that is not known.
pub(crate) fn unsupported(requires: &[String], participant: &str) -> Option<Refusal> {
    let unknown = requires.iter().find(|name| !FEATURES.contains(&name.as_str()))?;
    let message = format!(
        "{participant} does not know the required feature {unknown}; it knows {}",
        FEATURES.join(", ")
    );
    Some(Refusal::new(FEATURE_UNSUPPORTED, message))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_unknown_feature_is_named() {
        let names =
            |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        assert_eq!(unsupported(&[], "p"), None);
        assert_eq!(unsupported(&names(&FEATURES), "p"), None);
        let refusal = unsupported(&names(&["tcc", "sealed", "other"]), "p").expect("a refusal");
        assert_eq!(refusal.reason, "FEATURE_UNSUPPORTED");
        assert!(refusal.message.contains("the required feature sealed;"), "{}", refusal.message);
    }
}
