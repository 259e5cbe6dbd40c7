// SPDX-License-Identifier: Apache-2.0
//! Where `byrnie upgrade` asks: a socket in the folder of what is to be upgraded, for its own user alone.

use super::{FORMAT, News, Post, millis};
use crate::failure::Failure;
use byrnie_model::code;
use byrnie_net::local::{Door, Talk};
use byrnie_net::runtime;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::sync::mpsc;

/// Name of the socket.
pub(crate) const DOOR: &str = "upgrade.sock";
/// How long a command may take to say what it wants.
const REQUEST_MAX: Duration = Duration::from_secs(5);
/// Pause after the process ran out of descriptors.
const PAUSE: Duration = Duration::from_secs(1);

/// What `byrnie upgrade` asks.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Request {
    /// [`FORMAT`].
    pub format: u32,
    /// The new binary.
    pub binary: PathBuf,
    /// How long what is under way may take to end.
    pub drain_millis: u64,
}

/// All posts serve by a new binary, and what they ran before has ended.
pub(crate) struct Done {
    /// Who asked.
    pub talk: Talk,
    /// The new binary.
    pub binary: PathBuf,
}

/// Replaces the proxies at these posts, one after the other, whenever it's asked in `folder`; `then` hears of it.
pub(crate) fn attend(folder: &Path, posts: Vec<Post>, then: Option<mpsc::Sender<Done>>) {
    match Door::bind(&folder.join(DOOR)) {
        Ok(door) => drop(runtime::spawn_local("upgrades", serve(door, posts, then))),
        Err(error) => {
            tracing::warn!(%error, folder = %folder.display(), "`byrnie upgrade` can't reach this process; it goes on without");
        }
    }
}

async fn serve(door: Door, posts: Vec<Post>, then: Option<mpsc::Sender<Done>>) {
    loop {
        match door.accept().await {
            Ok(mut talk) => {
                // Who doesn't listen any more misses how it goes; what was begun goes on.
                if let Ok((told, binary)) = answer(&mut talk, &posts).await {
                    let then = then.clone().filter(|_| told.len() == posts.len());
                    runtime::spawn_local("upgraded", async move {
                        let talk = see_off(talk, told).await;
                        if let Some(then) = then {
                            drop(then.send(Done { talk, binary }).await);
                        }
                    });
                }
            }
            Err(error) => {
                tracing::warn!(%error, "no command can be heard");
                runtime::sleep(PAUSE).await;
            }
        }
    }
}

/// Replaces one after the other; what is still to be told of those that were.
async fn answer(talk: &mut Talk, posts: &[Post]) -> io::Result<(Vec<Begun>, PathBuf)> {
    let line = runtime::timeout(REQUEST_MAX, talk.next()).await.map_err(|_| io::ErrorKind::TimedOut)??;
    // Without a word it only asked whether somebody is here.
    let line = line.ok_or(io::ErrorKind::UnexpectedEof)?;
    let request = match serde_json::from_str::<Request>(&line) {
        Ok(request) if request.format == FORMAT => request,
        _ => {
            let what = format!("this process understands form {FORMAT} of the request alone");
            let next = "ask by a version nearer to what runs, or start the instance again";
            let refused = Failure::new(code::HAND_OVER.id, what).next(next);
            talk.say(&shown("", &News::Refused(refused)).to_string()).await?;
            return Err(io::ErrorKind::InvalidData.into());
        }
    };
    let mut begun = Vec::new();
    for post in posts {
        let drain = Duration::from_millis(request.drain_millis);
        let mut told = post.upgrade(request.binary.clone().into(), drain).await;
        let Some(news) = told.recv().await else { continue };
        let refused = matches!(news, News::Refused(_));
        let said = talk.say(&shown(&post.name, &news).to_string()).await;
        if !refused {
            begun.push((post.name.clone(), told));
        }
        if refused || said.is_err() {
            break;
        }
    }
    Ok((begun, request.binary))
}

/// A post that was upgraded, and what is still to be told of it.
type Begun = (String, mpsc::Receiver<News>);

/// Tells how the earlier processes end, and comes back when they have.
async fn see_off(mut talk: Talk, begun: Vec<Begun>) -> Talk {
    for (name, mut told) in begun {
        if let Some(news) = told.recv().await {
            // Who asked may have gone.
            drop(talk.say(&shown(&name, &news).to_string()).await);
        }
    }
    talk
}

/// The control plane stays what it was.
pub(crate) fn refused(why: &str) -> Failure {
    Failure::new(code::HAND_OVER.id, why).next(code::HAND_OVER.next)
}

/// Tells how it went with the process that is asked itself.
pub(crate) async fn tell_of_control(talk: &mut Talk, news: &News) {
    drop(talk.say(&shown("control", news).to_string()).await);
}

fn shown(proxy: &str, news: &News) -> Value {
    match news {
        News::Serves { pid, version, took } => {
            json!({"proxy": proxy, "news": "serves", "pid": pid, "version": version, "millis": millis(*took)})
        }
        News::Refused(Failure { code, detail, place, next, .. }) => {
            json!({"proxy": proxy, "news": "refused", "code": code, "detail": detail, "where": place, "next": next})
        }
        News::Ended { whole } => json!({"proxy": proxy, "news": "ended", "whole": whole}),
    }
}
