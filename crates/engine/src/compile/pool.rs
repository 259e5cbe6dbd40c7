// SPDX-License-Identifier: Apache-2.0
//! Pools of inference servers: the clusters of their ports know their picker and each other. Called for each service that
//! stands for one.

use super::Compiler;
use super::held::picker_of;
use crate::pick::{CompiledPool, Picker};
use byrnie_base::Text;
use byrnie_model::{Service, ServiceRef};
use std::sync::Arc;

impl Compiler {
    /// What a service's clusters know of the pool that it stands for.
    pub(super) fn pool(&self, name: &ServiceRef, service: &Service) -> Option<Arc<CompiledPool>> {
        let spec = service.pool.as_ref()?;
        let picker = spec.picker.as_ref().and_then(|picker| {
            let at = picker_of(name, picker);
            let cluster = self.slots.find(&at, picker.port)?;
            let label = Text::from(format!("{at}:{}", picker.port));
            Some(Picker { label, cluster, fail_open: picker.fail_open })
        });
        let ports = service.ports.iter().filter_map(|port| self.slots.find(name, port.port)).collect();
        Some(Arc::new(CompiledPool { picker, ports }))
    }
}
