// SPDX-License-Identifier: Apache-2.0
//! Programs below `byrnie run`: what they're given, what becomes of what they start, and what is shown of
//! their sidecars.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod mesh;

use mesh::{Mesh, descendants, free_port, is_alive, until};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};

/// A program that starts others: one in the background, one in a session of its own, and one whose parent
/// is gone at once. It says when all of them run.
const FAMILY: &str =
    "sleep 1000 & setsid sleep 1001 & (sleep 1002 & exec sleep 0.01) & wait $!; echo family; sleep 1003";

fn family(mesh: &Mesh) -> (mesh::Program, Vec<u32>) {
    let port = free_port().to_string();
    let run = mesh.run(&["--name", "family", "--port", &port], &["sh", "-c", FAMILY]);
    run.wait_for_line("family");
    // The keeper, the shell and its four.
    let all = || descendants(run.pid());
    until("the whole family", || format!("{:?}", all()), || all().len() == 6);
    let all = all();
    (run, all)
}

/// The mesh has its token long before it says where it is.
#[test]
fn a_program_that_is_started_right_after_its_mesh_waits_for_it() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let command = |args: &[&str]| {
        let mut command = mesh::byrnie();
        command.arg("--data-dir").arg(&data).args(args);
        command
    };
    let up = mesh::Program::spawn(command(&["up"]));
    until("a token", || up.log(), || data.join("token").exists());
    let joined = command(&["run", "--name", "early", "--", "true"]).output().unwrap();
    assert!(joined.status.success(), "{}\n{}", String::from_utf8_lossy(&joined.stderr), up.log());
}

#[test]
fn nothing_that_a_program_started_outlives_run() {
    let mesh = Mesh::up(&[]);
    for signal in ["KILL", "TERM"] {
        let (mut run, all) = family(&mesh);
        run.signal(signal);
        run.wait();
        until(
            &format!("the end of the family after {signal}"),
            || format!("{all:?}"),
            || !all.iter().any(|&pid| is_alive(pid)),
        );
    }
}

#[test]
fn nothing_that_a_program_started_outlives_the_program() {
    let mesh = Mesh::up(&[]);
    let (mut run, all) = family(&mesh);
    let shell = all.iter().find(|&&pid| mesh::command(pid).starts_with("sh -c")).unwrap();
    mesh::kill(*shell, "KILL");
    assert_eq!(run.wait().code(), Some(128 + 9), "{}", run.log());
    assert!(!all.iter().any(|&pid| is_alive(pid)), "{all:?}");
}

#[test]
fn signals_and_statuses_pass_through() {
    let mesh = Mesh::up(&[]);
    let port = free_port().to_string();
    let script = "trap 'echo reloaded' HUP; trap 'echo used' USR1; trap 'exit 7' TERM; echo waiting; \
                  while :; do sleep 0.05; done";
    let mut run = mesh.run(&["--name", "daemon", "--port", &port, "--restart", "on-failure"], &["sh", "-c", script]);
    run.wait_for_line("waiting");
    for (signal, said) in [("HUP", "reloaded"), ("USR1", "used")] {
        run.signal(signal);
        run.wait_for_line(said);
    }
    run.signal("TERM");
    assert_eq!(run.wait().code(), Some(7), "{}", run.log());
    let mut absent = mesh.run(&["--name", "absent", "--port", &port], &["/no/such/program"]);
    assert_eq!(absent.wait().code(), Some(127), "{}", absent.log());
    assert!(absent.log().contains("cannot start /no/such/program"), "{}", absent.log());
}

#[test]
fn a_program_is_told_how_each_service_is_reached() {
    let mesh = Mesh::up(&[]);
    let services = "apiVersion: v1\nkind: Service\nmetadata: {name: db}\n\
                    spec: {ports: [{port: 5432, appProtocol: tcp}]}\n---\n\
                    apiVersion: v1\nkind: Service\nmetadata: {name: api-v2}\n\
                    spec: {ports: [{name: a, port: 80, appProtocol: grpc}, {name: b, port: 9000}]}\n---\n\
                    apiVersion: v1\nkind: Service\nmetadata: {name: db, namespace: shop}\n\
                    spec: {ports: [{port: 80}]}\n";
    mesh.ok(&["apply", "-f", &mesh::file(&mesh, "services.yaml", services)]);
    let port = free_port().to_string();
    let uses = "db.shop,db,api-v2,later,transactions.byrnie,one.a,one.b";
    let mut run = mesh.run(&["--name", "caller", "--port", &port, "--uses", uses], &["sh", "-c", "env | grep BYRNIE_"]);
    run.wait();
    let given = |name: &str, scheme: &str| {
        let start = format!("{name}={scheme}://127.0.0.1:");
        assert!(run.log().lines().any(|line| line.starts_with(&start)), "no {start} in {}", run.log());
    };
    given("BYRNIE_DB_URL", "tcp");
    given("BYRNIE_API_V2_URL", "http");
    given("BYRNIE_API_V2_9000_URL", "http");
    given("BYRNIE_LATER_URL", "http");
    // With the namespace each has a name; without it the program's own namespace is meant.
    given("BYRNIE_DB_SHOP_URL", "http");
    given("BYRNIE_DB_DEFAULT_URL", "tcp");
    given("BYRNIE_TRANSACTIONS_URL", "http");
    given("BYRNIE_TRANSACTIONS_BYRNIE_URL", "http");
    given("BYRNIE_ONE_A_URL", "http");
    let log = run.log();
    assert!(log.contains("BYRNIE_DB_URL could be db.default or db.shop; it is db.default"), "{log}");
    assert!(log.contains("BYRNIE_ONE_URL would be one.a or one.b, so it is not set"), "{log}");
    assert!(!log.lines().any(|line| line.starts_with("BYRNIE_ONE_URL=")), "{log}");
}

#[test]
fn a_service_that_comes_later_is_reached_without_a_restart() {
    let mesh = Mesh::up(&[]);
    mesh.ok(&["allow", "caller", "later"]);
    let caller = mesh.echo("caller", "v1", &["--uses", "later", "--http-proxy"]);
    caller.wait_for_line("there is no service later yet");
    let absent = mesh.ask_until("caller", "/call/later/x", |answer| answer.status == 200);
    assert!(absent.body.contains("404") || absent.body.contains("503"), "{absent:?}");
    // On a port that nobody could guess, and one that the program does not even say that it uses.
    let ports = |name: &str| {
        format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\n\
             spec: {{selector: {{app: {name}}}, ports: [{{port: 8081, targetPort: http}}]}}\n"
        )
    };
    mesh.ok(&["apply", "-f", &mesh::file(&mesh, "later.yaml", &ports("later"))]);
    mesh.ok(&["apply", "-f", &mesh::file(&mesh, "other.yaml", &ports("other"))]);
    let _later = mesh.echo("later", "v8", &[]);
    mesh.ask_until("caller", "/call/later/x", |answer| answer.body.contains("200 echo version v8"));
    let _other = mesh.echo("other", "v9", &[]);
    mesh.ok(&["allow", "caller", "other"]);
    let proxy = caller.value("HTTP_PROXY");
    let proxy = proxy.strip_prefix("http://").unwrap().parse().unwrap();
    let ask = || mesh::http_by_proxy(proxy, "http://other:8081/x").map_or_else(|error| error, |answer| answer.body);
    until("the other service by the forward proxy", ask, || ask().contains("echo version v9"));
}

#[test]
fn a_stopped_sidecar_is_shown_as_stale_until_it_goes_on() {
    let mesh = Mesh::up(&[]);
    let run = mesh.echo("sleeper", "v1", &[]);
    mesh.ask_until("sleeper", "/", |answer| answer.status == 200);
    let row = || {
        let proxies = mesh.json(&["proxies"]);
        let mut rows = proxies.as_array().unwrap().iter();
        rows.find(|row| row["name"].as_str().unwrap().contains("sleeper")).cloned().unwrap_or_default()
    };
    until("a proxy in sync", || row().to_string(), || row()["inSync"] == true && row()["reason"].is_null());
    mesh::kill(run.pid(), "STOP");
    until("a stale proxy", || row().to_string(), || row()["inSync"] == false);
    assert!(row()["reason"].as_str().unwrap().contains("nothing was heard of it for"), "{}", row());
    let status = mesh.json(&["status"]);
    assert!(status["warnings"].to_string().contains("BYR-S011"), "{status}");
    assert!(status["inSync"].as_u64() < status["proxies"].as_u64(), "{status}");
    mesh::kill(run.pid(), "CONT");
    until("a proxy in sync again", || row().to_string(), || row()["inSync"] == true);
    mesh.ask_until("sleeper", "/", |answer| answer.status == 200);
}

#[test]
fn programs_start_again_while_the_mesh_is_away_and_are_found_when_it_is_back() {
    let mut mesh = Mesh::up(&[]);
    let (server, client) = (free_port().to_string(), free_port());
    let program = mesh::echo_program;
    let server_args = ["--name", "server", "--port", &server];
    let client_args = ["--name", "client", "--port", &client.to_string(), "--uses", "server"];
    let (server_program, client_program) = (program(&server, "s"), program(&client.to_string(), "c"));
    let run = |mesh: &Mesh, args: &[&str], program: &[String]| {
        mesh.run(args, &program.iter().map(String::as_str).collect::<Vec<_>>())
    };
    let mut first = [run(&mesh, &server_args, &server_program), run(&mesh, &client_args, &client_program)];
    mesh.ok(&["allow", "client", "server"]);
    // Through both sidecars, without the edge.
    let call = || mesh::http(([127, 0, 0, 1], client).into(), "client", "/call/server/x");
    let works = || call().is_ok_and(|answer| answer.body.contains("200 echo version s"));
    until("a call before", || format!("{:?}", call()), works);

    let mut up = mesh.up.take().unwrap();
    for program in std::iter::once(&mut up).chain(&mut first) {
        program.signal("KILL");
        program.wait();
    }
    let began = mesh::now();
    let again = [run(&mesh, &server_args, &server_program), run(&mesh, &client_args, &client_program)];
    until("a call while the mesh is away", || format!("{:?}\n{}", call(), again[1].log()), works);
    eprintln!("calls again {:?} after both programs were started without a mesh", began.elapsed());
    again[0].wait_for_line("goes on by what an earlier instance kept");

    mesh.start(&[]);
    until(
        "both proxies again",
        || format!("{:?}", mesh.sidecars()),
        || {
            let all = mesh.sidecars();
            all.len() == 2 && all.iter().all(|proxy| proxy["inSync"] == true)
        },
    );
    mesh.ok(&["delete", "accesspolicy", "allow-client-to-server"]);
    until(
        "the end of the permission",
        || format!("{:?}", call()),
        || call().is_ok_and(|answer| answer.body.contains("403")),
    );
}

/// Answers requests on one connection after the other, each head and body in a write of its own, as Python's
/// `http.server` does; with Nagle's algorithm on, as it is unless a program turns it off.
fn piecemeal() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            std::thread::spawn(move || {
                let mut head = [0; 4096];
                while stream.read(&mut head).is_ok_and(|read| read > 0) {
                    let pieces = ["HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n", "do", "ne"];
                    if pieces.iter().any(|piece| stream.write_all(piece.as_bytes()).is_err()) {
                        return;
                    }
                }
            });
        }
    });
    port
}

#[test]
fn a_program_that_writes_in_pieces_is_not_kept_waiting_for_its_acknowledgements() {
    let mesh = Mesh::up(&[]);
    let port = piecemeal().to_string();
    let _run = mesh.run(&["--name", "hello", "--port", &port], &["tail", "-f", "/dev/null"]);
    mesh.ask_until("hello", "/", |answer| answer.body == "done");
    let mut stream = TcpStream::connect(("127.0.0.1", mesh.port("edge"))).unwrap();
    stream.set_nodelay(true).unwrap();
    let mut spans = Vec::new();
    for _ in 0..60 {
        let clock = mesh::Stopwatch::start();
        stream.write_all(b"GET / HTTP/1.1\r\nHost: hello.default.mesh.localhost\r\n\r\n").unwrap();
        let mut answer = Vec::new();
        while !answer.ends_with(b"done") {
            let mut bytes = [0; 4096];
            let read = stream.read(&mut bytes).unwrap();
            assert!(read > 0);
            answer.extend_from_slice(&bytes[..read]);
        }
        spans.push(clock.passed());
    }
    // At first a connection acknowledges at once by itself. Later ones took 40 ms each, never less.
    let best = spans[40..].iter().min().unwrap();
    assert!(best.as_millis() < 35, "{spans:?}");
}

#[test]
fn a_program_of_which_nobody_says_what_it_speaks_is_reached_whoever_speaks_first() {
    let mesh = Mesh::up(&[]);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port().to_string();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            // A probe may be gone before it's greeted.
            let _ = stream.unwrap().write_all(b"220 welcome\r\n");
        }
    });
    let idle = ["tail", "-f", "/dev/null"];
    let mail = mesh.run(&["--name", "mail", "--port", &port], &idle);
    mail.wait_for_line("joined as");
    mesh.ok(&["allow", "caller", "mail"]);
    let caller = mesh.run(&["--name", "caller", "--uses", "mail"], &idle);
    caller.wait_for_line("BYRNIE_MAIL_URL=");
    let log = caller.log();
    let address = log.split("BYRNIE_MAIL_URL=http://").nth(1).unwrap().split_whitespace().next().unwrap();
    until(
        "the greeting",
        || caller.log(),
        || {
            let mut said = String::new();
            let mut stream = TcpStream::connect(address).unwrap();
            // Before the policy is in force the connection ends without a word.
            stream.read_to_string(&mut said).is_ok() && said == "220 welcome\r\n"
        },
    );
}

/// What is printed as the next command does what it says.
#[test]
fn the_leave_that_a_program_needs_is_named_whole() {
    let mesh = Mesh::up(&[]);
    let program = mesh.run(&["--name", "w4", "--uses", "transactions.byrnie"], &["sleep", "1000"]);
    program.wait_for_line("byrnie allow w4 transactions.byrnie");
    let said = |args: &[&str]| String::from_utf8_lossy(&mesh.cli(args).stderr).into_owned();
    let unknown = said(&["allow", "w4", "transactions"]);
    assert!(unknown.contains("there is no service transactions.default yet"), "{unknown}");
    assert_eq!(said(&["allow", "w4", "transactions.byrnie"]), "");
    // A request by another name is refused by a code.
    let console = SocketAddr::from(([127, 0, 0, 1], mesh.port("console")));
    let foreign = mesh::http(console, "shop.example", "/api/v1/status").unwrap();
    assert!(foreign.status == 403 && foreign.body.contains("BYR-A012"), "{}", foreign.body);
}

/// A caller learns at once that it was refused and why, of a service that it never said that it uses.
#[test]
fn a_call_that_no_policy_allows_is_denied_and_explained_at_once() {
    let mesh = Mesh::up(&[]);
    let gamma = mesh.echo("gamma", "v1", &[]);
    gamma.wait_for_line("joined as");
    let alpha = mesh.echo("alpha", "v1", &["--http-proxy"]);
    alpha.wait_for_line("HTTP_PROXY=");
    let proxy = alpha.value("HTTP_PROXY");
    let proxy = proxy.strip_prefix("http://").unwrap().parse().unwrap();
    let ask = |host: &str| mesh::http_by_proxy(proxy, &format!("http://{host}/x")).unwrap();
    let state = || format!("{:?}", ask("gamma"));
    until("the name of gamma", state, || ask("gamma").status == 403);
    for (host, status, word) in [
        ("gamma", 403, "byrnie allow alpha.default gamma"),
        ("alpha", 403, "no policy"),
        ("nobody", 404, "called nobody"),
    ] {
        let answer = ask(host);
        assert!(answer.status == status && answer.body.contains(word), "{host}: {answer:?}");
        // What is asked at once is explained, though proxies report once a second.
        let id = answer.head.lines().find_map(|line| line.strip_prefix("x-byrnie-decision: ")).unwrap().to_owned();
        let past = mesh.json(&["explain", &id]);
        assert_eq!((&past["status"], &past["record"]["id"]), (&status.into(), &id.into()), "{past}");
        let foretold = mesh.json(&["explain", &format!("GET http://{host}/x"), "--from", "alpha"]);
        assert_eq!(foretold["status"], status, "{foretold}");
        assert_eq!(foretold["decision"] == "deny", status == 403, "{foretold}");
    }
    // The last is the last, not the one before.
    let newest = ask("gamma");
    let last = mesh.json(&["explain", "last"]);
    assert!(newest.head.contains(last["record"]["id"].as_str().unwrap()), "{last}\n{newest:?}");
    mesh.ok(&["allow", "alpha", "gamma"]);
    until("gamma", state, || ask("gamma").status == 200);
}

#[test]
fn a_canary_gives_versions_by_label_the_shares_that_it_says() {
    let mesh = Mesh::up(&[]);
    let _one = mesh.echo("pay", "v1", &[]);
    let _two = mesh.echo("pay", "v2", &[]);
    for version in ["v1", "v2"] {
        mesh.ask_until("pay", "/", |answer| answer.is_of(version));
    }
    let second = |asks: usize| (0..asks).filter(|_| mesh.ask("pay", "/").is_ok_and(|a| a.is_of("v2"))).count();
    let first = |asks: usize| (0..asks).filter(|_| mesh.ask("pay", "/").is_ok_and(|a| a.is_of("v1"))).count();
    mesh.ok(&["canary", "pay", "v2", "0"]);
    until("v1 alone", || second(40).to_string(), || first(40) == 40);
    mesh.ok(&["canary", "pay", "v2", "100"]);
    until("v2 alone", || first(40).to_string(), || second(40) == 40);
    mesh.ok(&["canary", "pay", "v2", "10%"]);
    until("both", || first(40).to_string(), || first(1) == 1);
    // As they share no instance, v2 gets a tenth, and not half of the rest too.
    let got = second(300);
    assert!((5..=75).contains(&got), "{got} of 300");
    assert_eq!(mesh.json(&["lint"]).as_array().map(Vec::len), Some(0), "{}", mesh.ok(&["lint"]));
    let left = || mesh.json(&["get", "services"]).to_string();
    let ended = mesh.ok(&["canary", "pay", "--off"]);
    assert!(!left().contains("pay-v"), "{}", left());
    // It was several changes, and what it says takes all of them back.
    let back = ended.split_once("take it back with: ").and_then(|(_, back)| back.trim_end().strip_suffix(')'));
    for undo in back.unwrap_or_else(|| panic!("{ended}")).split(" && ") {
        mesh.ok(&undo.split(' ').skip(1).collect::<Vec<_>>());
    }
    assert!(left().contains("pay-v1") && left().contains("pay-v2"), "{}", left());
    until("a tenth again", || second(100).to_string(), || second(100) < 25);
    mesh.ok(&["canary", "pay", "--off"]);
    assert!(!left().contains("pay-v"), "{}", left());
    until("both alike", || second(100).to_string(), || (30..=70).contains(&second(100)));
    // A gateway's route of the service's name is none of its business.
    let public = "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: pay}\nspec: {parentRefs: [{name: public}], hostnames: [pay.example], rules: [{backendRefs: [{name: pay, port: 80}]}]}\n";
    mesh.ok(&["apply", "-f", &mesh::file(&mesh, "public.yaml", public)]);
    let spec = || mesh.json(&["get", "httproute", "pay"])["spec"].clone();
    let before = spec();
    mesh.ok(&["canary", "pay", "v2", "100"]);
    until("v2 alone again", || first(40).to_string(), || second(40) == 40);
    assert_eq!(spec(), before);
    mesh.ok(&["canary", "pay", "--off"]);
    assert_eq!(spec(), before);
}

/// A way to the console by which somebody is overtaken: before its first request that writes, `another` does.
fn overtaken<'s>(
    scope: &'s std::thread::Scope<'s, '_>,
    console: SocketAddr,
    another: impl FnOnce() + Send + 's,
) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    scope.spawn(move || {
        let mut another = Some(another);
        while another.is_some() {
            let (mut client, _) = listener.accept().unwrap();
            let mut first = [0; 4096];
            let length = client.read(&mut first).unwrap();
            // Nobody was overtaken.
            if length == 0 {
                break;
            }
            if !first.starts_with(b"GET ") {
                another.take().unwrap()();
            }
            let mut server = TcpStream::connect(console).unwrap();
            server.write_all(&first[..length]).unwrap();
            let (mut from, mut to) = (client.try_clone().unwrap(), server.try_clone().unwrap());
            std::thread::spawn(move || {
                let _ = std::io::copy(&mut from, &mut to);
                let _ = to.shutdown(std::net::Shutdown::Write);
            });
            let _ = std::io::copy(&mut server, &mut client);
            let _ = client.shutdown(std::net::Shutdown::Both);
        }
    });
    address
}

#[test]
fn a_canary_overwrites_nothing_that_was_written_since_it_looked() {
    let mesh = Mesh::up(&[]);
    let _pay = ["v1", "v2"].map(|version| mesh.echo("pay", version, &[]));
    for version in ["v1", "v2"] {
        mesh.ask_until("pay", "/", |answer| answer.is_of(version));
    }
    let console = SocketAddr::from(([127, 0, 0, 1], mesh.port("console")));
    let route = || mesh.json(&["get", "httproute", "pay"])["spec"].clone();
    mesh.ok(&["canary", "pay", "v2", "10"]);
    for (args, share) in [(&["canary", "pay", "v2", "90"][..], "30"), (&["canary", "pay", "--off"], "40")] {
        let (done, meanwhile) = std::sync::mpsc::channel();
        let refused = std::thread::scope(|scope| {
            let another = || {
                mesh.ok(&["canary", "pay", "v2", share]);
                done.send(route()).unwrap();
            };
            let way = overtaken(scope, console, another);
            let refused = mesh.cli(&[args, &["--server", &format!("http://{way}")]].concat());
            drop(TcpStream::connect(way));
            refused
        });
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(!refused.status.success() && said.contains("BYR-C032"), "{args:?}: {said}");
        assert_eq!(route(), meanwhile.recv().unwrap(), "{args:?}");
    }
    mesh.ok(&["canary", "pay", "--off"]);
}

/// What `get` prints is what `apply` takes.
#[test]
fn what_is_got_can_be_applied() {
    let mesh = Mesh::up(&[]);
    let two = "apiVersion: v1\nkind: Namespace\nmetadata: {name: a}\n---\napiVersion: v1\nkind: Namespace\nmetadata: {name: b}\n";
    mesh.ok(&["apply", "-f", &mesh::file(&mesh, "two.yaml", two)]);
    for form in ["json", "ndjson", "yaml"] {
        let got = mesh.ok(&["get", "namespaces", "-o", form]);
        let applied = mesh.ok(&["apply", "-f", &mesh::file(&mesh, &format!("got.{form}"), &got)]);
        assert!(
            applied.contains("Namespace/a unchanged") && applied.contains("Namespace/b unchanged"),
            "{form}: {applied}"
        );
    }
}

#[test]
fn no_program_takes_the_name_of_a_pool() {
    let mesh = Mesh::up(&[]);
    let pool = "apiVersion: inference.networking.k8s.io/v1\nkind: InferencePool\nmetadata: {name: models}\nspec: {selector: \
                {matchLabels: {app: vllm}}, targetPorts: [{number: 8000}]}\n";
    mesh.ok(&["apply", "-f", &mesh::file(&mesh, "pool.yaml", pool)]);
    let run = mesh.run(&["--name", "models", "--port", &free_port().to_string()], &["sleep", "1000"]);
    run.wait_for_line("an InferencePool has this name");
}
