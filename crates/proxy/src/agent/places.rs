// SPDX-License-Identifier: Apache-2.0
//! Where hosts outside are, on a proxy by which calls leave the mesh: one task for each looks again and again, also while the
//! control plane is away, and what it finds is compiled as if slices said so; where it was lost within a change, once that is whole. Hosts of many names under one pattern are looked
//! for as they are asked for, in `outside`.

use super::ads::Compiling;
use crate::outside;
use crate::worker::InForce;
use byrnie_base::Text;
use byrnie_net::names::{FRESH, HOSTS_MAX, Names};
use byrnie_net::runtime::{self, Task};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::rc::Rc;
use tokio::sync::{mpsc, watch};

/// Places where hosts were found that wait to be compiled: each waits for its own.
const PLACES_MAX: usize = 64;

/// The search for a host, until it's dropped.
struct Search(Task);

impl Drop for Search {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Follows the configuration, and lets `compiling` know where its hosts are. `own_machine`: the whole mesh is on this machine.
pub(super) async fn run(mut in_force: watch::Receiver<InForce>, compiling: Rc<Compiling>, own_machine: bool) {
    let (tell, mut found) = mpsc::channel(PLACES_MAX);
    let names = Rc::new(Names::default());
    let mut searches: BTreeMap<Text, Search> = BTreeMap::new();
    loop {
        let wanted: BTreeSet<Text> = in_force.borrow_and_update().snapshot.hosts().take(HOSTS_MAX).cloned().collect();
        for (host, _) in searches.extract_if(.., |host, _| !wanted.contains(host)) {
            compiling.locate(&host, Vec::new());
        }
        for host in wanted {
            searches.entry(host.clone()).or_insert_with(|| {
                let search = search(host, Rc::clone(&names), tell.clone());
                Search(runtime::spawn_local("host outside", search))
            });
        }
        tokio::select! {
            changed = in_force.changed() => if changed.is_err() {
                return;
            },
            Some((host, mut addresses)) = found.recv() => {
                // Those of this machine itself and of its link are asked only where the whole mesh is on it.
                addresses.retain(|ip: &IpAddr| own_machine || !outside::is_inside(*ip));
                if searches.contains_key(&host) {
                    compiling.locate(&host, addresses);
                }
            }
        }
    }
}

/// Looks again and again where a host is, and tells when that may have changed.
async fn search(host: Text, names: Rc<Names>, tell: mpsc::Sender<(Text, Vec<IpAddr>)>) {
    let mut known = Vec::new();
    loop {
        let found = names.lookup(&host).await.unwrap_or_else(|error| {
            tracing::debug!(%host, %error, "a host outside isn't found");
            Vec::new()
        });
        if found != known {
            known.clone_from(&found);
            if tell.send((host.clone(), found)).await.is_err() {
                return;
            }
        }
        runtime::sleep(FRESH).await;
    }
}
