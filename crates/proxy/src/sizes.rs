// SPDX-License-Identifier: Apache-2.0
//! How large the futures may be that exist once per connection, stream or exchange: what is rare in them stands on the heap. A
//! connection took 44 KiB when it held handshakes and refusals too, several times each. The types in them have bounds where they
//! are defined.

use crate::carry::Trip;
use crate::connection::{serve, serve_gate, serve_h1, serve_h2, serve_http, serve_mesh, serve_site, switch};
use crate::tunnel::{self, Way};
use crate::{crew, hop, undeclared};
use byrnie_base::assert_size;
use byrnie_base::size::any;

// Connections: any; those of other proxies, of gateways and of other sites; of HTTP, before it's known of which version; those of
// which nobody said what they speak; and what they turn out to be.
assert_size!(async serve(any(), any(), any(), any()), 1088);
assert_size!(async serve_mesh(any(), any(), any()), 448);
assert_size!(async serve_gate(any(), any(), any(), any()), 1344);
assert_size!(async serve_site(any(), any(), any()), 2880);
assert_size!(async serve_http(any(), any(), any()), 960);
assert_size!(async undeclared::serve(any(), any(), any(), any()), 576);
assert_size!(async serve_h1(any(), any(), any(), any()), 2944);
assert_size!(async serve_h2(any(), any(), any(), any()), 1280);
assert_size!(async hop::serve(any(), any(), any(), any()), 1280);

// Exchanges: what each holds, its course, and the task that carries one of HTTP/2 (of gRPC, that is) or of a hop after the other.
assert_size!(Trip<'static>, 520);
assert_size!(async any::<&mut Trip<'static>>().run(), 1472);
assert_size!(async crew::run(any(), any(), any()), 2880);

// Tunnels: what each holds, opening and passing one, and one from begin to end, or after an upgrade.
assert_size!(Way<'static>, 480);
assert_size!(async Way::open(any(), any(), any()), 1600);
assert_size!(async any::<Way<'static>>().pass(any(), any(), any(), any(), any()), 2176);
assert_size!(async tunnel::serve(any(), any(), any(), any()), 2496);
assert_size!(async switch(any(), any(), any()), 768);
