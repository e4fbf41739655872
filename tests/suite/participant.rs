//! Promises on the participants' side of the wire: their service is called as a coordinator would
//! call it, and as one never would.

mod barrier;
mod calls;
mod client;
mod databases;
mod deaf;
mod direct;
mod handler;
mod indeterminate;
mod initiator;
mod inquired;
mod installed;
mod killed_step;
mod mariadb;
mod model;
mod paging;
mod propagation;
mod registration;
mod requirements;
mod retention;
mod slots;
mod steps;
mod sweeper;
mod swept_steps;
mod two_phase;
