// SPDX-License-Identifier: Apache-2.0
//! What a route answers by itself, as an HTTPRouteFilter says it: no backend is asked, and what the rule adds to other answers
//! it adds to this one too.

use crate::exchange::Exchange;
use crate::route::Chosen;
use crate::{Answer, Reason, cors};
use byrnie_codec::Head;
use byrnie_model::route::Direct;
use std::sync::Arc;

impl Exchange {
    /// What the route answers by itself; where nobody says what that is, it must not be passed over.
    pub(crate) fn answer_directly(&self, direct: &Direct) -> Box<Answer> {
        let label = self.chosen.as_ref().map(Chosen::label).cloned().unwrap_or_default();
        let filter = &direct.filter;
        let Some(response) = &direct.response else {
            let detail = format!("{label} answers as HTTPRouteFilter {filter} says, which does not exist");
            return self.refuse(Reason::BackendAbsent, detail);
        };
        let mut answer =
            self.refuse(Reason::DirectResponse, format!("answered by {label} as HTTPRouteFilter {filter} says"));
        (answer.status, answer.grpc, answer.direct) = (response.status, false, Some(Arc::clone(response)));
        answer
    }

    /// Makes `head` the head of an answer of the mesh's own, and returns its body. What a route answers by itself gets what
    /// it adds to other answers.
    pub fn write(&self, answer: &Answer, head: &mut Head) -> Vec<u8> {
        let body = answer.write(self.id(), head);
        if let (Reason::DirectResponse, Some(chosen)) = (answer.reason, &self.chosen) {
            chosen.changes().edit_response(head);
            self.permit(chosen, head);
        }
        body
    }

    /// Tells a page of another origin what it may read.
    pub(crate) fn permit(&self, chosen: &Chosen, head: &mut Head) {
        let of_backend = chosen.backend().map_or(&[][..], |backend| &backend.filters);
        let origin = self.aside.as_ref().and_then(|aside| aside.origin.as_ref());
        if let (Some(origin), Some(cors)) = (origin, cors::find(&chosen.rule().filters, of_backend)) {
            cors::mark(cors, origin, head);
        }
    }
}
