//! Admission of calls, before a byte of their messages is read: whoever is not known makes nobody read anything.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::{Request, Response};
use tonic::body::Body;
use tonic::codegen::Service;
use tower_layer::Layer;

use super::Api;
use super::access;
use super::calls::{Calls, UnderWay};
use super::others::Others;
use super::rpc::Rpc;
use crate::held::Held;

/// Layer that refuses calls of those who are not known, or have no role for them.
#[derive(Clone, Debug)]
pub(super) struct Admit {
    pub(super) api: Api,
    pub(super) calls: Arc<Calls>,
    pub(super) others: Arc<Others>,
}

impl<S> Layer<S> for Admit {
    type Service = Admitting<S>;

    fn layer(&self, inner: S) -> Admitting<S> {
        let (api, calls) = (self.api.clone(), Arc::clone(&self.calls));
        Admitting { inner, api, calls, others: Arc::clone(&self.others) }
    }
}

/// Service whose calls are admitted first.
#[derive(Clone, Debug)]
pub(super) struct Admitting<S> {
    inner: S,
    api: Api,
    calls: Arc<Calls>,
    others: Arc<Others>,
}

impl<S> Service<Request<Body>> for Admitting<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
    S::Future: Send + 'static,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        // Other paths are health, reflection, and what does not exist.
        let Some(rpc) = Rpc::of_path(request.uri().path()) else {
            let from = access::address(request.extensions()).map(|from| from.ip());
            let placed = self.others.take(request.uri().path(), from);
            let answering = placed.map(|place| (self.inner.call(request), place));
            return Box::pin(async move {
                match answering {
                    Ok((answering, place)) => {
                        let response = answering.await?;
                        Ok(response.map(|body| Body::new(Held::new(body, place))))
                    }
                    Err(status) => Ok(status.into_http()),
                }
            });
        };
        let admitted = self.api.admit(rpc, request.headers(), request.extensions());
        let placed = admitted.and_then(|access| {
            self.api.take_turn(&access, request.extensions())?;
            Ok((self.api.take_place(&access)?, access))
        });
        match placed {
            Ok((place, access)) => {
                let call = UnderWay::new(&self.calls, access.name());
                request.extensions_mut().insert(access);
                request.extensions_mut().insert(Arc::clone(&call));
                let answering = self.inner.call(request);
                Box::pin(async move {
                    let response = answering.await?;
                    Ok(response.map(|body| Body::new(Held::new(body, (place, call)))))
                })
            }
            Err(status) => {
                self.api.metrics.served(rpc.name(), status.code());
                // Its message is dropped, whatever comes of it.
                Box::pin(async move { Ok(status.into_http()) })
            }
        }
    }
}
