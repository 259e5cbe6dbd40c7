// SPDX-License-Identifier: Apache-2.0
//! The BYR- registry: every message that byrnie shows has a stable code, what it means, and what
//! to do next. Codes are never reused. Messages of one case add their own words to these.

/// One entry of the registry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Code {
    /// `BYR-` and a letter for the area: C configuration, A access, R requests, S system, T transactions.
    pub id: &'static str,
    /// What happened, in one sentence.
    pub title: &'static str,
    /// What follows from it.
    pub effect: &'static str,
    /// What to do.
    pub next: &'static str,
}

impl Code {
    /// The entry of this id, such as `BYR-C012`, in any case, with or without `BYR-`.
    pub fn find(id: &str) -> Option<&'static Self> {
        let short = id.get(..4).filter(|p| p.eq_ignore_ascii_case("BYR-")).map_or(id, |_| &id[4..]);
        ALL.iter().copied().find(|code| code.id[4..].eq_ignore_ascii_case(short))
    }
}

macro_rules! registry {
    ($($name:ident: $id:literal, $title:literal, $effect:literal, $next:literal;)*) => {
        $(
            #[doc = concat!("`", $id, "`: ", $title, ".")]
            pub static $name: Code = Code { id: $id, title: $title, effect: $effect, next: $next };
        )*
        /// Every entry, by area and number.
        pub static ALL: &[&Code] = &[$(&$name),*];
    };
}

registry! {
    // Configuration: one document
    SYNTAX: "BYR-C001",
        "the document is not valid YAML or JSON",
        "Nothing of this file was applied.",
        "Mend the text where the arrow points.";
    UNKNOWN_FIELD: "BYR-C002",
        "a field has a name that this kind does not have",
        "The document was refused, so that no setting is silently lost.",
        "Correct the name, or remove the field.";
    DUPLICATE_KEY: "BYR-C003",
        "the same key stands twice in one mapping",
        "The document was refused: one of the two would be lost.",
        "Keep one of them.";
    WRONG_TYPE: "BYR-C004",
        "a value has the wrong type",
        "The document was refused.",
        "Write a value of the type that the message names.";
    MISSING_FIELD: "BYR-C005",
        "a required field is missing",
        "The document was refused.",
        "Add the field that the message names.";
    UNKNOWN_KIND: "BYR-C006",
        "no such kind of resource",
        "The document was refused.",
        "Correct apiVersion and kind; `byrnie get --help` names the kinds.";
    KIND_UNSERVED: "BYR-C007",
        "byrnie does not serve this kind of resource yet",
        "The document was refused, so that nothing looks enforced that is not.",
        "Leave the document out of what you apply to byrnie.";
    BAD_NAME: "BYR-C008",
        "a name is not a valid DNS name",
        "The document was refused.",
        "Use lower-case letters, digits and '-', beginning and ending with a letter or digit.";
    TOO_LARGE: "BYR-C009",
        "the input exceeds a limit",
        "The input was refused.",
        "Split the file, or make the document smaller.";
    NOT_ENFORCED: "BYR-C010",
        "byrnie does not enforce this field yet",
        "The document was refused, so that nothing looks enforced that is not.",
        "Remove the field.";
    BAD_VALUE: "BYR-C011",
        "a value is outside what is allowed",
        "The document was refused.",
        "Write a value that the message allows.";
    SERVICE_ABSENT: "BYR-C012",
        "route sends traffic to a service that does not exist",
        "This share of the requests would be answered 500.",
        "Create the service, or correct the name.";
    PORT_ABSENT: "BYR-C013",
        "a reference names a port that the service does not have",
        "What refers to this port has no effect; requests sent there would be answered 500.",
        "Correct the port, or add it to the service.";
    PARENT_ABSENT: "BYR-C014",
        "route is attached to a service that does not exist",
        "The route has no effect.",
        "Create the service, or correct parentRefs.";
    TARGET_ABSENT: "BYR-C015",
        "policy targets a service that does not exist",
        "The policy has no effect on this target.",
        "Create the service, or correct targetRefs.";
    DUPLICATE_RESOURCE: "BYR-C016",
        "the same resource is described twice",
        "The input was refused: one of the two would be lost.",
        "Keep one of the documents.";
    SELECTS_NOTHING: "BYR-C017",
        "no workload fits the selector of this service",
        "Calls to the service are answered 503.",
        "Start a workload with these labels, or correct the selector.";
    WEIGHTS_ZERO: "BYR-C018",
        "every backend of a rule has weight 0",
        "Requests that fit the rule are answered 500.",
        "Give at least one backend a weight.";
    RULE_UNREACHABLE: "BYR-C019",
        "no request can reach this rule",
        "The rule has no effect.",
        "Make the rule more specific than the earlier one, or remove it.";
    RETRY_UNSAFE: "BYR-C020",
        "retries are asked for requests that may have effects",
        "POST and PATCH are not sent again after a byte of them was, so the setting has no effect on them.",
        "Set `unsafeRetry: true` in a TrafficPolicy of the service if repeating is safe.";
    TARGET_PORT_ABSENT: "BYR-C021",
        "no workload of the service has this target port",
        "Calls to this port of the service are answered 503.",
        "Correct targetPort, or name the port in the workloads.";
    MIXED_IDENTITIES: "BYR-C022",
        "workloads of differing service accounts serve one service",
        "Callers trust each of them as this service.",
        "Check the selector, unless this is meant.";
    NO_BACKENDS: "BYR-C023",
        "a rule has neither backends nor an answer of its own",
        "Requests that fit the rule are answered 500.",
        "Add backendRefs, a RequestRedirect filter, or an ExtensionRef to an HTTPRouteFilter.";
    ROUTE_CONFLICT: "BYR-C024",
        "two routes match the same requests",
        "The older one wins, or the first by name; this rule has no effect.",
        "Remove one, or make them differ.";
    TRAFFIC_CONFLICT: "BYR-C025",
        "two traffic policies decide the same matter of a service",
        "What the first by name says of it is in force.",
        "Merge them into one.";
    SELECTOR_CONFLICT: "BYR-C026",
        "two services have the same selector and ports",
        "Both names lead to the same workloads; policies on one do not hold for the other.",
        "Keep one of them, unless this is meant.";
    PROTOCOL_CONFLICT: "BYR-C027",
        "service and workload name different protocols for one port",
        "Requests may fail as the two sides speak differently.",
        "Make appProtocol of the service and protocol of the workload agree.";
    CONTRADICTION: "BYR-C028",
        "fields of the document contradict each other",
        "The document was refused.",
        "Keep one of the fields that the message names.";
    WRONG_VERSION: "BYR-C029",
        "byrnie serves this kind in another version",
        "The document was refused.",
        "Write the apiVersion that the message names.";
    NAME_TAKEN: "BYR-C030",
        "the name is already taken by something that differs",
        "The newcomer was refused.",
        "Choose another name, or stop the one that has it.";
    NO_PARENTS: "BYR-C054",
        "this route is attached to nothing",
        "It does nothing until it is.",
        "Name a Service or a Gateway in parentRefs.";
    ROUTE_WITHOUT_HTTP: "BYR-C031",
        "route is attached to a port that carries opaque TCP",
        "The route has no effect: requests cannot be told apart there.",
        "Set appProtocol of the port to http, http2 or grpc.";
    ROUTE_WITHOUT_TCP: "BYR-C060",
        "a route for connections is attached to a port that serves requests",
        "The route has no effect: requests are sent by the routes for requests.",
        "Write an HTTPRoute or GRPCRoute, or set appProtocol of the port to tcp.";
    OPAQUE_TO_HTTP: "BYR-C061",
        "a route for connections leads to a port that serves requests",
        "Its connections are refused there: rules of access for requests would not be asked.",
        "Set appProtocol of the backend's port to tcp, or write an HTTPRoute.";
    DATAGRAMS_DIFFER: "BYR-C099",
        "a route and a port of a Service differ in whether they take datagrams",
        "Nothing that comes by the route is let in there: datagrams are no connections.",
        "Write a UDPRoute for a port with protocol: UDP, and a route of another kind for every other port.";
    STALE: "BYR-C032",
        "the resource changed meanwhile",
        "Nothing was written.",
        "Read it again and repeat the change.";
    TRUST_DOMAIN_FIXED: "BYR-C033",
        "the trust domain of a running mesh cannot change",
        "The change was refused: every certificate would be void.",
        "Start a new data directory for a new trust domain.";
    UNDERIVABLE: "BYR-C034",
        "resources of this kind are derived and cannot be written",
        "The change was refused.",
        "Write the Service and the Workload from which it is derived.";
    USES_ABSENT: "BYR-C036",
        "workload says it uses a service that does not exist",
        "Its calls to that name are answered 404.",
        "Create the service, or correct `uses`.";
    NOT_FOUND: "BYR-C037",
        "there is no such resource",
        "Nothing was done.",
        "`byrnie get KIND` lists what exists.";
    UNREADABLE: "BYR-C038",
        "the file cannot be read",
        "Nothing of this file was applied.",
        "Check the path and its permissions.";
    ADDRESS_CONFLICT: "BYR-C039",
        "two workloads say that they listen at one address",
        "Calls to one of them may reach the other, which refuses them by its identity.",
        "Correct `inbound` of one of them.";

    // Configuration: routes and gateways
    BACKEND_KIND: "BYR-C050",
        "route sends traffic to a kind of resource that takes none",
        "This share of the requests is answered 500.",
        "Name a core Service.";
    NOT_ATTACHED: "BYR-C051",
        "route is attached to no listener of the gateway that it names",
        "The route has no effect there.",
        "Compare parentRefs and hostnames of the route with the listeners; `byrnie get gateways -o yaml` shows them.";
    NOT_GRANTED: "BYR-C052",
        "route of a gateway sends traffic into another namespace that has not allowed it",
        "This share of the requests is answered 500.",
        "Write a ReferenceGrant in the namespace of the service.";
    STEP_SERVICE: "BYR-C055",
        "saga calls a service that does not exist",
        "It can be kept, but not started.",
        "Create the service, or correct the name; a name without namespace is of the saga's own.";
    STEP_SAGA: "BYR-C068",
        "step is a saga that does not exist, or that leads back to itself",
        "It can be kept, but not started.",
        "Create the saga or correct the name; a saga can't be a part of itself, by way of others neither.";
    EXPRESSION: "BYR-C056",
        "expression can not be read, or names what is not known by then",
        "The document was not applied.",
        "An expression is CEL over `input` and the names of steps that come before.";
    CERTIFICATE_ABSENT: "BYR-C057",
        "a listener names a certificate that it can not show",
        "Without another certificate the listener lets nobody in.",
        "Apply the Secret, or a ReferenceGrant in its namespace.";
    PORT_CLASH: "BYR-C062",
        "another listener was at this port first",
        "The listener is not served: connections there are the first one's.",
        "Name another port or host, or agree on one protocol.";
    SET_UNSERVED: "BYR-C063",
        "a ListenerSet adds to a gateway that does not take it",
        "Its listeners are not served.",
        "Apply the gateway, or name the set's namespace in its spec.allowedListeners.";
    AUTHORITY_ABSENT: "BYR-C101",
        "a gateway names authorities for its callers that can not be had",
        "Callers are believed by the others that it names; without any, its HTTPS listeners let nobody in.",
        "Apply the ConfigMap with PEM in data[\"ca.crt\"], or a ReferenceGrant in its namespace.";
    CALLERS_UNPROVEN: "BYR-C102",
        "a gateway lets callers in whatever they prove",
        "A caller without a certificate, or with one that does not hold, is served like one that has proven who it is.",
        "Write `mode: AllowValidOnly`, unless the programs behind judge by `x-forwarded-client-cert`.";
    CALLERS_UNASKED: "BYR-C103",
        "spec.tls.frontend of a gateway is not for what it seems to be for",
        "Callers are asked for a certificate at listeners of protocol HTTPS alone, and by port; elsewhere whoever connects is let in.",
        "Correct the port, make it a listener of protocol HTTPS, or let the program behind end TLS (`mode: Passthrough`).";
    CERTIFICATE_UNFIT: "BYR-C058",
        "a certificate and its key are of no use",
        "The document was refused.",
        "Apply the certificate (with those that vouch for it after it) and the key that belongs to it, as PEM.";
    CERTIFICATE_ENDS: "BYR-C059",
        "a certificate that a gateway or the egress shows ends soon, or has ended",
        "Callers of the gateway, or hosts outside, refuse the connection once it has.",
        "Apply the Secret with a renewed certificate; connections that are open go on.";
    OUTSIDE_IN_CLEAR: "BYR-C064",
        "calls leave the mesh without TLS",
        "Whoever is on the way reads and changes them.",
        "Apply a BackendTLSPolicy for the service, or write `appProtocol: tcp` if the program speaks TLS itself.";
    BACKEND_TLS_INSIDE: "BYR-C065",
        "a BackendTLSPolicy is for a service inside the mesh",
        "It has no effect: mutual TLS protects every call there already.",
        "Delete the policy, or give the service `type: ExternalName` and a host.";
    BACKEND_TLS_CONFLICT: "BYR-C066",
        "two BackendTLSPolicies are for one target",
        "The older one counts.",
        "Delete one of them.";
    BUNDLE_ABSENT: "BYR-C067",
        "authorities, of hosts outside or of callers, are absent or unfit",
        "Calls of the service outside are refused, as nobody could tell who answers them; callers for whom they should vouch aren't let in.",
        "Apply the ConfigMap with certificates of authorities, as PEM, in data[\"ca.crt\"].";
    CLIENT_CERTIFICATE_ABSENT: "BYR-C069",
        "the certificate to be shown to a service outside is absent",
        "Calls of the service are refused: nothing leaves without it.",
        "Apply the Secret, of type kubernetes.io/tls, in the policy's namespace.";
    SLICE_UNUSED: "BYR-C074",
        "addresses of an EndpointSlice serve nothing",
        "No request is sent to them.",
        "Name a Service without selector in the label kubernetes.io/service-name, and its ports by their names.";
    SLICES_TOO_MANY: "BYR-C075",
        "the EndpointSlices of a service have more addresses than are used",
        "Those beyond, in the order of the slices' names, are sent nothing.",
        "Make several services of it, and split calls by a route.";
    CHOICE_EMPTY: "BYR-C076",
        "no endpoint has the labels that a traffic policy wants",
        "Calls to the service are answered 503.",
        "Correct `endpoints.labels` of the policy, or start a workload with these labels.";
    PLACE_EMPTY: "BYR-C077",
        "no endpoint is at a place to which a traffic policy gives a share",
        "The share of that place goes to the others.",
        "Correct `failover.distribute` of the policy, or start a workload there with `--locality REGION/ZONE`.";
    SHARED_ENDPOINTS: "BYR-C078",
        "backends among which calls are split have instances in common",
        "The shares are not those that the weights say: who serves two backends gets calls of both.",
        "Give each backend a selector of its own, such as by the label `version`; `byrnie canary` does.";
    SITE_UNFIT: "BYR-C080",
        "what is said of another site can not be followed",
        "Nobody of that site is let in, and nothing there is called.",
        "Write a trust domain that is not this mesh's, and its authorities' certificates: `byrnie site` prints them there.";
    SITE_SERVICE_ABSENT: "BYR-C081",
        "a site or an export names a service that does not exist here",
        "It has no effect for this service.",
        "Create the Service of the same name and ports, or correct the name.";
    EXPORT_UNREACHED: "BYR-C082",
        "a service is exported, and no other site can reach it",
        "Calls from other sites are not let in.",
        "Export a service with workloads, and give a Gateway a listener of protocol mesh.byrnie.dev/sites.";
    SITE_ENDS: "BYR-C083",
        "the authorities of another site end soon, or have ended",
        "When they have, nobody of that site is let in and nothing there is called.",
        "Run `byrnie site` there and apply what it prints here.";
    LEASE_SHORT: "BYR-C084",
        "a call is waited for longer than its service may take for a keyed request",
        "A program that takes longer is cut off with 504, and nobody knows how the call ended: its key is ambiguous.",
        "Make `idempotency.lease` of the service's TrafficPolicy at least as long as the timeout, or the timeout shorter.";
    FILTER_ABSENT: "BYR-C085",
        "a rule answers as a filter says that does not exist",
        "Requests that fit the rule are answered 500.",
        "Apply the HTTPRouteFilter in the route's namespace, or correct the name.";
    POOL_SHADOWED: "BYR-C090",
        "an InferencePool has the name of a Service of its namespace",
        "Callers get the Service: nothing is sent to the pool, and its picker isn't asked.",
        "Give the pool or the Service another name.";
    PICKER_UNFIT: "BYR-C091",
        "the endpoint picker of a pool can not be asked",
        "Requests for the pool are answered 503 or, with failureMode FailOpen, balanced over its members.",
        "Name a Service inside the mesh, in the pool's namespace, and a port of it on which HTTP/2 is spoken.";
    CLASS_UNSERVED: "BYR-C053",
        "gateway is of a class that nobody here serves",
        "The gateway and the routes on it have no effect.",
        "Write `gatewayClassName: byrnie`, or a GatewayClass with controllerName mesh.byrnie.dev/gateway.";
    PARAMETERS_UNSERVED: "BYR-C097",
        "a gateway names parameters, and byrnie takes none",
        "The gateway and the routes on it have no effect.",
        "Remove `spec.infrastructure.parametersRef`.";

    // Access
    NO_RULES: "BYR-A001",
        "policy has no rules, so that nothing fits it",
        "It allows or denies nobody; what no other policy allows gets the mesh's default.",
        "Add a rule; an empty rule `{}` fits every call.";
    EVERYONE: "BYR-A002",
        "rule fits every caller in the mesh",
        "Any workload may make this call.",
        "Name sources, unless this is meant.";
    SOURCE_ABSENT: "BYR-A003",
        "no workload runs under this service account",
        "The rule fits nobody today.",
        "Correct the name, unless the workload is yet to come.";
    FOREIGN_DOMAIN: "BYR-A004",
        "source is of another trust domain",
        "The rule fits nobody: only certificates of this mesh and of its Sites are accepted.",
        "Correct the domain, or apply that mesh's Site.";
    DENY_HIDES_ALLOW: "BYR-A005",
        "a DENY policy always wins over this rule",
        "The rule has no effect.",
        "Narrow the DENY policy, or remove the rule.";
    ACCESS_PORT_ABSENT: "BYR-A006",
        "no workload behind the target has this port",
        "The rule fits nothing.",
        "Use the workload's own port, as in targetPort.";
    NOTHING_ENFORCES: "BYR-A007",
        "policy looks at requests, but the port carries opaque TCP",
        "Nobody can tell what it is for: an ALLOW lets nothing pass, a DENY refuses every connection.",
        "Set appProtocol of the port, or write the rule without `http`.";
    USES_DENIED: "BYR-A008",
        "workload uses a service that no policy lets it call",
        "Its calls are answered 403.",
        "`byrnie allow CALLER SERVICE` writes the policy.";
    NO_TOKEN: "BYR-A009",
        "the operator's token is missing or wrong",
        "The call was refused.",
        "Use the token in DATA_DIR/token, by --token or BYRNIE_TOKEN.";
    NOT_YOURS: "BYR-A010",
        "the certificate does not entitle to this",
        "The call was refused.",
        "Check the service account that the workload runs under.";
    JOIN_TOKEN: "BYR-A011",
        "the join token is unknown, used up or expired",
        "No certificate was signed.",
        "`byrnie token create --workload NS/SA` makes a new one.";

    FOREIGN: "BYR-A012",
        "a request is not meant for this console",
        "It was refused, whatever token it shows.",
        "Ask the console as localhost or by a name that it was given.";

    // Requests: why the mesh itself answered or failed
    ACCESS_DENIED: "BYR-R001",
        "access denied: no policy lets this caller make this call",
        "The request was answered 403 and did not reach the program.",
        "`byrnie allow CALLER SERVICE` if the call is meant.";
    NO_ROUTE: "BYR-R002",
        "no service or route fits the request",
        "The request was answered 404.",
        "Check host and path; `byrnie get services` and `byrnie get routes` list what exists.";
    NO_ENDPOINT: "BYR-R003",
        "no healthy endpoint of the service",
        "The request was answered 503.",
        "`byrnie get workloads` shows who serves it; start one, or look why it is unhealthy.";
    BACKEND_ABSENT: "BYR-R004",
        "there is no backend to which the request may be sent",
        "The request was answered 500 and was not sent.",
        "The detail says what a route or policy lacks; `byrnie lint` names it.";
    TIMEOUT: "BYR-R005",
        "the time for the request ran out",
        "The request was answered 504; the program may still be at work on it.",
        "Look at the latency of the service, or raise the route's timeout.";
    OVERLOAD: "BYR-R006",
        "too many requests at once",
        "The request was answered 503 with Retry-After and was not sent.",
        "Add instances, or raise limits.maxPending; the detail says which limit it was.";
    STRAIN: "BYR-R034",
        "the proxy is short of memory, files or processor time",
        "The request was answered 503 with Retry-After and was not sent.",
        "The detail says of what; give the proxy more of it (BYRNIE_MEMORY_MAX, ulimit -n), or add instances.";
    NOT_ADMITTED: "BYR-R035",
        "too few of the service's requests succeed",
        "The request was answered 503 with Retry-After and was not sent.",
        "Look why requests to it fail; it ends by itself once they don't. limits.admission says when it begins.";
    RATE_LIMITED: "BYR-R007",
        "the rate limit of the service is reached",
        "The request was answered 429 and was not sent.",
        "Slow down, or raise limits.rate.";
    FAULT_INJECTED: "BYR-R030",
        "a fault is injected on purpose",
        "The request was answered, or its connection cut, as a TrafficPolicy asks for.",
        "Wait until the fault's end, or end it: `byrnie fault SVC --off`.";
    BAD_REQUEST: "BYR-R008",
        "the request is malformed or ambiguous",
        "The request was answered 400 and was not sent, or not to its end.",
        "Mend the client; the detail names the rule of the RFC.";
    IDENTITY_MISMATCH: "BYR-R009",
        "the other side is not who it must be",
        "The connection was closed before a byte of the request was sent.",
        "Look who listens at this address; `byrnie cert list` shows who has which certificate.";
    CONNECT_FAILURE: "BYR-R010",
        "no connection could be opened",
        "The request was answered 503.",
        "Check that the program listens and that nothing filters the port.";
    BODY_TOO_LARGE: "BYR-R011",
        "the body exceeds the limit",
        "The request was answered 413.",
        "Send less at once.";
    INTERNAL: "BYR-R012",
        "byrnie itself failed",
        "The request was answered 500.",
        "Please report it with the record: `byrnie explain ID`.";
    DOWNSTREAM_GONE: "BYR-R013",
        "the caller went away before the answer was complete",
        "The request was cancelled.",
        "Look for a time-out in the caller that is shorter than the answer takes.";
    BAD_RESPONSE: "BYR-R015",
        "the program's answer is malformed",
        "The caller got 502.",
        "Mend the program; the detail says what is wrong with it, where the proxy beside it found that.";
    DRAINING: "BYR-R016",
        "the proxy is shutting down",
        "The request was answered 503 with Retry-After.",
        "Try again; another instance will answer.";
    KEY_MISSING: "BYR-R040",
        "the service asks for an Idempotency-Key, and there is none that can be read",
        "The request was answered 400 and was not sent.",
        "Send `Idempotency-Key: \"...\"`, new for each request and the same for its repetitions.";
    KEY_MISMATCH: "BYR-R041",
        "the idempotency key was used for another request",
        "The request was answered 422 and was not sent.",
        "Use a new key for a new request; repeat the same method, path, credentials and body under the old one.";
    KEY_IN_FLIGHT: "BYR-R042",
        "the same request is still under way",
        "The request was answered 409, within a transaction 425, and was not sent again.",
        "Come again after Retry-After: then its answer is replayed.";
    KEY_AMBIGUOUS: "BYR-R043",
        "nobody knows how an earlier request under this key ended",
        "The request was answered 409 and was not run again.",
        "Look in the program whether it took effect; guarantee G2 (a barrier in its database) makes this safe.";
    LEDGER_UNREACHABLE: "BYR-R044",
        "the ledger of idempotency keys is not reached",
        "The request was answered 503 and was not sent, as nobody could tell a repetition.",
        "Look whether `byrnie up` runs, and whether its disk is full.";
    ANSWER_NOT_KEPT: "BYR-R045",
        "the request was done before, and its answer was not kept",
        "The status is the one of the first time; the body is lost.",
        "Read the result by a GET; or answer with at most 64 KiB, and without `statusOnly` in the policy.";
    COORDINATOR_ONLY: "BYR-R046",
        "the call ends a part of a transaction, and is not the coordinator's",
        "The request was answered 403 and was not sent.",
        "End the transaction at the coordinator; what a TrafficPolicy's `enlist` names is called by it alone.";
    TRANSACTION_DENIED: "BYR-R047",
        "the caller may not bring this service into the transaction",
        "The request was answered 403 and was not sent, as nobody would take it back.",
        "Let the transaction's creator call, or a service that takes part in it; else leave out Txn-Id.";
    TRANSACTION_CLOSED: "BYR-R048",
        "the transaction is not there, or takes nobody any more",
        "The request was answered 412 and was not sent, as nobody would take it back.",
        "`byrnie saga show ID` tells how it stands; call within a scope or TCC that is still open.";
    COORDINATOR_UNREACHABLE: "BYR-R049",
        "the coordinator of transactions is not reached",
        "The request was answered 503 and was not sent, as nobody would take it back.",
        "Look whether `byrnie up` runs, and whether its disk is full.";
    PICK_FAILED: "BYR-R039",
        "the endpoint picker of a pool gave no member of it",
        "The request was answered 503 and was not sent.",
        "The detail says whether the picker could not be asked, or what it said; look at its log and at the pool's members.";
    MISDIRECTED: "BYR-R032",
        "the host is not the one that the connection was made for",
        "The request was answered 421 and was not sent; a browser opens a new connection by itself.",
        "Open a connection for this host, with its name in the handshake (SNI).";
    UNPROCESSED: "BYR-R036",
        "the request was refused before it was processed",
        "Nothing was done with it. The program refused it on each connection that was tried (GOAWAY, REFUSED_STREAM); the caller got 503.",
        "Look at how many requests the program takes at once and on one connection, and whether it is stopping.";
    UPSTREAM_RESET: "BYR-R031",
        "the connection was closed before the answer was complete",
        "The caller got 502 or 503, or a cut answer.",
        "Look at the program's own log at this time; it closed the connection, not byrnie.";

    // System
    BAD_QUESTION: "BYR-S040",
        "the console can not make sense of a request",
        "Nothing was done.",
        "Correct what the message names; /openapi.json lists parameters and bodies.";
    NO_PATH: "BYR-S041",
        "the console has nothing at this path",
        "Nothing was done.",
        "/openapi.json lists what there is.";
    NO_METHOD: "BYR-S042",
        "the path takes another method",
        "Nothing was done.",
        "The header Allow names those that it takes.";
    REGISTRATION_GONE: "BYR-S043",
        "nothing is registered by this id",
        "Nothing was done; an address that isn't registered gets no calls.",
        "Register it again, and send a heartbeat more often than its ttlSeconds.";
    ADDRESSES_FULL: "BYR-S044",
        "a service has as many addresses as are used of it",
        "The newcomer was not registered, as it would get no calls.",
        "Split the service, or take out addresses that nobody needs: `byrnie get endpointslice`.";
    STORE_UNREACHABLE: "BYR-S001",
        "the store does not answer",
        "Configuration cannot change; traffic goes on.",
        "Look at the store and the disk it is on.";
    PORT_BUSY: "BYR-S003",
        "a port is already in use",
        "The listener could not be opened.",
        "Stop what uses it, or give another port.";
    DATA_DIR: "BYR-S004",
        "the data directory cannot be written",
        "byrnie cannot start.",
        "Check owner and free space, or give --data-dir.";
    STORE_CORRUPT: "BYR-S005",
        "the store's file is damaged",
        "byrnie does not start, so as to lose nothing.",
        "Restore a backup, or move the file away to begin anew.";
    STORE_NEWER: "BYR-S006",
        "the store's file was written by a newer byrnie",
        "byrnie does not start, so as to lose nothing.",
        "Use the newer version.";
    REFUSED_BY_PROXY: "BYR-S007",
        "a proxy refused a resource",
        "The proxy keeps the last good configuration.",
        "`byrnie status` names the proxy and its reason.";
    CONTROL_LOST: "BYR-S008",
        "the proxy has lost the control plane",
        "Traffic goes on with the last good configuration; it tries again.",
        "Look whether `byrnie up` runs.";
    CLOCK_JUMP: "BYR-S009",
        "the clock of the machine jumped",
        "Certificates may look expired or not yet valid.",
        "Check the machine's time service.";
    NOT_LISTENING: "BYR-S010",
        "the program does not listen on its port",
        "Calls to it are answered 503 until it does.",
        "Check --port and the program's own log.";
    BEHIND: "BYR-S011",
        "a proxy is behind the stored configuration",
        "It works by an older revision.",
        "`byrnie proxies` shows how far and why.";
    UNREACHABLE: "BYR-S012",
        "byrnie's console does not answer",
        "Nothing was done.",
        "Start `byrnie up`, or give --server.";
    LEAF_EXPIRES: "BYR-S013",
        "a workload's certificate was not renewed in time",
        "When it expires, the workload can neither call nor be called.",
        "Look at the log of its proxy and whether it reaches the control plane.";
    LEASE_LOST: "BYR-S014",
        "a workload stopped its heartbeat",
        "It was taken out of every proxy.",
        "Look whether its process still runs.";
    DISK_FULL: "BYR-S015",
        "the disk is full",
        "Nothing was written; traffic goes on.",
        "Free some space.";
    IN_USE: "BYR-S016",
        "another process uses this data directory",
        "byrnie does not start: two writers would damage the store.",
        "Stop the other one, or give another --data-dir.";
    PROGRAM_SICK: "BYR-S018",
        "the program fails its health check",
        "Callers go to other instances until it does well again.",
        "Look at the program's log; the check is in a TrafficPolicy: `byrnie get trafficpolicy`.";
    PORT_CLOSED: "BYR-S019",
        "a port that a gateway names can not be served",
        "Listeners in the clear are reached at the edge's own port; those under TLS are not reached.",
        "Free the port, name another, or let the edge bind it (below 1024 that takes CAP_NET_BIND_SERVICE).";
    HAND_OVER: "BYR-S020",
        "a proxy's listeners could not be handed to a new process",
        "The one that runs goes on serving; nothing was lost.",
        "See what the message says of the new binary; `byrnie upgrade` may be tried again.";
    ELSEWHERE: "BYR-S030",
        "a service has no healthy endpoint here and is served by other sites",
        "Its calls take longer, and end if that site can not be reached either.",
        "Look why its workloads here are gone: `byrnie get workload`.";
    SITE_UNREACHED: "BYR-S031",
        "a service is not reached at another site",
        "Nothing takes over when it fails here.",
        "Check the gateway there, that the service is exported and has workloads: `byrnie status` there.";
    UNSERVED: "BYR-S032",
        "no endpoint of a service is healthy",
        "Calls to the service are answered 503.",
        "`byrnie get workload` shows which are unhealthy or draining; look at their logs, and at the health check of the service's TrafficPolicy.";
    UPGRADING: "BYR-S021",
        "an upgrade of this proxy is under way",
        "Nothing was begun; the earlier process still ends what it has.",
        "Wait until it has ended, then ask again.";
    KEPT_VIEW: "BYR-S017",
        "the configuration that a proxy kept can't be used",
        "It waits for the control plane, as at its first start.",
        "Look who writes in its state directory; start `byrnie up`.";

    LOAD_UNREPORTED: "BYR-S023",
        "a program does not report its load, though a policy asks for it",
        "Its instance gets the mean share of the others; its answers may still say otherwise.",
        "Add `xds.service.orca.v3.OpenRcaService` to the program, or take `endpoints.loadReport` out of the TrafficPolicy.";

    // Transactions
    OTLP_UNREACHED: "BYR-S022",
        "the collector of traces and metrics does not take them",
        "Traffic goes on; spans that find no room meanwhile are dropped and counted.",
        "Check `telemetry.otlp` of the Mesh, the collector's log, and the variables that its headers name.";
    TXN_MALFORMED: "BYR-T001",
        "the request for a transaction is not well formed",
        "Nothing was begun or changed.",
        "Correct what the message names; `byrnie saga start --help` shows one.";
    TXN_DENIED: "BYR-T002",
        "the caller may not do this to a transaction, or call what it calls",
        "Nothing was begun or changed; the refusal is in the audit.",
        "`byrnie allow` lets the creator call a service; an operator may do the rest.";
    TXN_DIFFERS: "BYR-T003",
        "the id belongs to another transaction",
        "Nothing was begun or changed.",
        "Use another id, or send the same request as the first time.";
    TXN_STATE: "BYR-T004",
        "the transaction is in another state",
        "Nothing was changed.",
        "`byrnie saga show ID` tells how it stands.";
    TXN_ABSENT: "BYR-T005",
        "there is no such transaction",
        "Nothing was changed.",
        "`byrnie saga list` shows those there are.";
    TXN_NO_SERVICE: "BYR-T006",
        "a branch calls a service that does not exist",
        "Nothing was begun.",
        "`byrnie get service` lists those there are; a name without namespace means the caller's own.";
    TXN_JOURNAL: "BYR-T007",
        "the journal of transactions can not take it now",
        "Nothing was begun or changed; what runs goes on when it can.",
        "Look at the disk or the database and the log of the control plane, then try again.";
    TXN_DATABASE: "BYR-T008",
        "the database for transactions can not be used",
        "byrnie does not start, so that nothing is acknowledged that may be lost.",
        "Mend what the message names; docs/how-to/coordinators.md says what the database needs.";
    TXN_KEYS: "BYR-T009",
        "the keys under which answers and transactions rest can not be used",
        "byrnie does not start, so that nothing is kept for others to read.",
        "Mend the file: 64 digits of base 16 on each line, mode 0600; docs/how-to/idempotent-requests.md shows how keys are changed.";
    TXN_SEALED: "BYR-T010",
        "a transaction is sealed by a key that is not there",
        "It stands still, and nothing of it is lost; it goes on within ten seconds of the key's return.",
        "Put the key that the message names back into the file of --ledger-keys, or into ledger.keys of the data directory.";
    TXN_STUCK: "BYR-T011",
        "transactions wait for an operator's decision",
        "What was done of them is neither finished nor taken back.",
        "`byrnie saga list --state STUCK` names them; `byrnie saga show ID` says why, `retry` and `resolve` end them.";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_unique_and_well_formed() {
        let mut seen = std::collections::BTreeSet::new();
        for code in ALL {
            assert!(seen.insert(code.id), "{} stands twice", code.id);
            let (area, number) = code.id.strip_prefix("BYR-").unwrap().split_at(1);
            assert!(
                "CARST".contains(area) && number.len() == 3 && number.bytes().all(|b| b.is_ascii_digit()),
                "{}",
                code.id
            );
            assert!(code.title.len() <= 80, "{} has a long title", code.id);
        }
    }

    #[test]
    fn codes_are_found_by_what_people_type() {
        for (word, found) in [
            ("BYR-C012", true),
            ("byr-c012", true),
            ("c012", true),
            ("C999", false),
            ("", false),
            ("\u{e9}\u{e9}\u{e9}", false),
        ] {
            assert_eq!(Code::find(word).is_some(), found, "{word}");
        }
    }
}
