//! A builder, as it is shown to people.

use std::fmt;

use super::Builder;

impl fmt::Debug for Builder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let locals: Vec<_> = self.locals.iter().map(|(name, _)| name).collect();
        f.debug_struct("Builder")
            .field("config", &self.config)
            .field("locals", &locals)
            .field("network", &self.network)
            .finish_non_exhaustive()
    }
}
