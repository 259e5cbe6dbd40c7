// SPDX-License-Identifier: Apache-2.0
//! The floor that any proxy could reach: copies bytes without looking at them.

use crate::words::Words;
use anyhow::Result;
use std::net::SocketAddr;
use tokio::net::{TcpListener, TcpStream};

/// Bytes that are copied at once.
const COPY_BYTES: usize = 64 * 1024;

/// `relay listen=ADDR next=ADDR`.
pub(crate) async fn serve(words: Words) -> Result<()> {
    let (listen, next) = (words.address("listen")?, words.address("next")?);
    let listener = TcpListener::bind(listen).await?;
    loop {
        let (client, _) = listener.accept().await?;
        tokio::task::spawn_local(relay(client, next));
    }
}

async fn relay(mut client: TcpStream, next: SocketAddr) -> Result<()> {
    let mut server = TcpStream::connect(next).await?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    tokio::io::copy_bidirectional_with_sizes(&mut client, &mut server, COPY_BYTES, COPY_BYTES).await?;
    Ok(())
}
