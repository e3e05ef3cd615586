//! HTTP/1.1 as far as a relay needs it: one request per connection, which is either the upgrade to
//! WebSocket or a GET of one of a few small documents.

pub mod head;
pub mod landing;
pub mod response;
pub mod route;

pub use head::{Head, HeadError, Method};
pub use response::{Pages, Status};
pub use route::{Route, Upgrade, route};
