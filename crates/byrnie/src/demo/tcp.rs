// SPDX-License-Identifier: Apache-2.0
//! Inventory's raw TCP side: one word a line in, one number a line out.

use super::calls::{TIMEOUT, at};
use anyhow::{Context, Result, bail};
use byrnie_net::runtime;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};

/// Longest line taken.
const LINE_BYTES_MAX: u64 = 256;

/// Answers `stock ITEM` with a number, line by line, until the client has ended.
pub(super) async fn serve(listener: byrnie_net::listen::Listener) {
    loop {
        let (mut stream, _) = listener.accept().await;
        runtime::spawn_local("demo tcp", async move {
            let (read, mut write) = stream.split();
            let mut lines = BufReader::new(read);
            loop {
                let mut line = String::new();
                match (&mut lines).take(LINE_BYTES_MAX).read_line(&mut line).await {
                    Ok(0) | Err(_) => return,
                    Ok(_) => {}
                }
                let stock = 40 + line.len() % 9;
                if write.write_all(format!("{stock}\n").as_bytes()).await.is_err() {
                    return;
                }
            }
        });
    }
}

/// Asks once for the stock of an item.
pub(super) async fn stock(url: &str, item: &str) -> Result<u32> {
    let address = at(url)?;
    let ask = async {
        let mut stream = byrnie_net::io::connect(address, TIMEOUT).await.context("inventory's tcp port")?;
        stream.write_all(format!("stock {item}\n").as_bytes()).await?;
        stream.shutdown().await?;
        let mut answer = String::new();
        stream.take(LINE_BYTES_MAX).read_to_string(&mut answer).await?;
        anyhow::Ok(answer)
    };
    match runtime::timeout(TIMEOUT, ask).await {
        Ok(answer) => answer?.trim().parse().context("inventory's tcp port answered no number"),
        Err(_) => bail!("inventory's tcp port did not answer in time"),
    }
}
