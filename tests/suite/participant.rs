//! What holds on the participants' side of the wire.

mod propagation;
