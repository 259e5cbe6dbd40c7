// SPDX-License-Identifier: Apache-2.0
//! Control planes that keep one ledger: whose proxies are answered, and what about.

use super::*;
use byrnie_net::tls::Roots;
use byrnie_saga::ledger::{Begin, Begun, Claim, Ending, Entry, Finished, Name};
use byrnie_store::Pending;
use byrnie_store::ledger::{Memory, Neighbour};
use byrnie_xds::proto::byrnie::v1::LedgerNeighbour;
use std::net::SocketAddr;
use std::sync::Mutex;

/// What a database is to several control planes.
struct Shared {
    ledger: Memory,
    met: Mutex<Vec<Neighbour>>,
}

impl Ledger for Shared {
    fn begin(&self, name: Name, ask: Begin) -> Pending<'_, Begun> {
        self.ledger.begin(name, ask)
    }

    fn finish(&self, name: Name, claim: Claim, ending: Ending) -> Pending<'_, Finished> {
        self.ledger.finish(name, claim, ending)
    }

    fn read(&self, name: Name) -> Pending<'_, Option<Entry>> {
        self.ledger.read(name)
    }

    fn sweep(&self) -> Pending<'_, usize> {
        self.ledger.sweep()
    }

    fn is_shared(&self) -> bool {
        true
    }

    fn meet(&self, own: Neighbour) -> Pending<'_, Vec<Neighbour>> {
        let mut met = self.met.lock().unwrap();
        met.retain(|other| other.roots != own.roots);
        let others = met.clone();
        met.push(own);
        Box::pin(async move { Ok(others) })
    }
}

async fn ask(
    channel: &Channel,
    service: &str,
    claim: u64,
    known: u64,
) -> Result<LedgerResponse, byrnie_net::grpc::Status> {
    let begin =
        LedgerBegin { fingerprint: vec![1; 32].into(), lease_millis: 60_000, ttl_millis: 600_000, again: false };
    let ask = LedgerAsk {
        service: Some(wire_ref(service)),
        caller: "spiffe://mesh.local/ns/default/sa/buyer".to_owned(),
        key: "k".to_owned(),
        claim,
        what: Some(ledger_ask::What::Begin(begin)),
    };
    let request = LedgerRequest { node: "default/web-1".to_owned(), asks: vec![ask], known };
    let answer = channel.unary(LEDGER_PATH, request.encode_to_vec().into()).await?;
    Ok(LedgerResponse::decode(answer).unwrap())
}

/// A connection to `at` whose other side is of `roots`, if it is one that is answered.
async fn enter(credentials: &Credentials, roots: &Roots, at: SocketAddr, own: &Identity) -> Option<Channel> {
    let tls = tls::client(&credentials.trusting(roots.clone())).unwrap();
    let channel = Channel::connect(at, &tls, own, None).await.ok()?;
    // Whether a certificate is taken shows at the first answer.
    match channel.unary("/byrnie.v1.Nothing/Nothing", Bytes::new()).await {
        Err(status) if status.code() == Code::Unimplemented => Some(channel),
        _ => None,
    }
}

#[test]
fn the_proxies_of_a_neighbour_are_answered_about_keys_and_nothing_else() {
    run(async |directory| {
        let ledger = Memory::open(&byrnie_store::disk::RamDisk::new(), Arc::new(*runtime::clock())).unwrap();
        let shared = Arc::new(Shared { ledger, met: Mutex::default() });
        let folder = |name: &str| {
            let folder = directory.join(name);
            std::fs::create_dir_all(&folder).unwrap();
            folder
        };
        let plane = Plane::with(&folder("a"), Some(shared.clone())).await;
        let other = Plane::with(&folder("b"), Some(shared.clone())).await;
        let alone = Plane::start(&folder("c")).await;
        let (credentials, channel) = plane.enrol("web").await;
        let (stranger, _) = plane.enrol("other").await;
        let (foreign, _) = alone.enrol("web").await;
        let _here = join(&channel, &workload("web-1", "web", Protocol::Http1), "web").await.unwrap();
        let (_, channel_there) = other.enrol("web").await;
        let _there = join(&channel_there, &workload("web-2", "web", Protocol::Http1), "web").await.unwrap();
        let web = ServiceRef::new("default", "web");
        plane.until(|catalog| catalog.is_instance(&web, "default", "web-1", &identity("web"))).await;
        other.until(|catalog| catalog.is_instance(&web, "default", "web-2", &identity("web"))).await;

        // The own control plane names the other, once.
        let named = async {
            loop {
                let response = ask(&channel, "web", 1, 0).await.unwrap();
                if let [neighbour] = &response.neighbours[..] {
                    break (response.known, neighbour.clone());
                }
                runtime::sleep(Duration::from_millis(20)).await;
            }
        };
        let (known, LedgerNeighbour { address, roots }) = runtime::timeout(PATIENCE, named).await.unwrap();
        assert_eq!(ask(&channel, "web", 1, known).await.unwrap().neighbours, []);
        assert_eq!(roots, other.running.authority.roots_pem());
        let (at, roots) = (address.parse().unwrap(), Roots::from_pem(&roots, "mesh.local").unwrap());

        let entered = async {
            loop {
                if let Some(entered) = enter(&credentials, &roots, at, &other.own).await {
                    break entered;
                }
                runtime::sleep(Duration::from_millis(20)).await;
            }
        };
        let door = runtime::timeout(PATIENCE, entered).await.unwrap();
        // One ledger: the same claim is the same execution, another one isn't.
        let answers = async |claim| ask(&door, "web", claim, 0).await.unwrap().answers.remove(0).what.unwrap();
        assert!(matches!(answers(1).await, ledger_answer::What::Granted(_)));
        assert!(matches!(answers(2).await, ledger_answer::What::InFlightMillis(_)));
        assert_eq!(ask(&door, "payments", 3, 0).await.unwrap_err().code(), Code::PermissionDenied);
        let no_web = enter(&stranger, &roots, at, &other.own).await.unwrap();
        assert_eq!(ask(&no_web, "web", 4, 0).await.unwrap_err().code(), Code::PermissionDenied);
        for path in [SIGN_PATH, QUOTA_PATH] {
            assert_eq!(door.unary(path, Bytes::new()).await.unwrap_err().code(), Code::Unimplemented, "{path}");
        }
        assert!(door.open(DELTA_PATH).await.is_err(), "no configuration is given there");
        // Nobody else's certificates count there, and these count nowhere else.
        assert!(enter(&foreign, &roots, at, &other.own).await.is_none());
        assert!(enter(&credentials, &roots, other.running.control, &other.own).await.is_none());
        // A control plane with a ledger of its own names nobody.
        let (_, channel) = alone.enrol("web").await;
        let nothing = LedgerRequest { node: "default/web-1".to_owned(), ..Default::default() };
        let response = channel.unary(LEDGER_PATH, nothing.encode_to_vec().into()).await.unwrap();
        assert_eq!(LedgerResponse::decode(response).unwrap(), LedgerResponse::default());
    });
}
