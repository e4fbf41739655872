//! Promises on the participants' side of the wire: their service is called as a coordinator would
//! call it, and as one never would.

mod affirmed;
mod alarms;
mod barrier;
mod calls;
mod client;
mod database_ids;
mod databases;
mod deaf;
mod direct;
mod handler;
mod indeterminate;
mod initiator;
mod inquired;
mod installed;
mod killed_step;
mod lost;
mod mariadb;
mod model;
mod overtime;
mod paging;
mod propagation;
mod refusals;
mod registration;
mod requirements;
mod retention;
mod rolling;
mod set_up;
mod silence;
mod slots;
mod standby;
mod steps;
mod sweeper;
mod swept_steps;
mod two_phase;
mod xa;
