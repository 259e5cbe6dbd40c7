// SPDX-License-Identifier: Apache-2.0
//! `byrnie up` becomes another version of itself without ending: the process stays, with its id, its children and its
//! sockets, and another program goes on in it. What that needs is its [`Will`], which waits in the kernel meanwhile.

use super::post::Parted;
use super::{Charge, FORMAT, Inbox, Left, Post, Said, form, send};
use crate::failure::Failure;
use crate::globals::Globals;
use crate::supervise::{self, Exit, Process, Signal};
use anyhow::{Context, Result, bail};
use byrnie_model::code;
use byrnie_net::listen::Listener;
use byrnie_net::local::{Talk, Tether};
use byrnie_proxy::Handed;
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// What the earlier program leaves.
pub(crate) struct Will {
    words: Words,
    /// Listeners of proxies, in the order of the words, then the own ones.
    listeners: Vec<Handed>,
    /// In the order of [`Words::files`].
    files: Vec<OwnedFd>,
}

/// What of it can be said in words.
#[derive(Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Words {
    doors: Vec<Left>,
    posts: Vec<Place>,
    children: Vec<(String, u32)>,
    /// Standard input, the DNS socket, who asked, the earlier program, and a tether for each child of the posts.
    files: usize,
    /// When it was begun, by the wall clock, in milliseconds.
    since: u64,
    /// What the process was started with.
    arguments: Vec<String>,
    /// Why the program that was to come after the one that wrote this didn't.
    refused: Option<String>,
}

#[derive(Clone, Serialize, Deserialize)]
struct Place {
    name: String,
    charge: Option<Charge>,
    binary: PathBuf,
    doors: usize,
    /// Id and version of the child.
    child: Option<(u32, String)>,
}

/// The form that only asks whether the arguments are understood.
pub(crate) const TRIAL: u32 = 0;
/// How long that may take.
const TRIAL_MAX: Duration = Duration::from_secs(10);
/// The flag by which a program learns that it is to go on.
const RESUME: &str = "--resume=";
/// Files of a will before the tethers.
const STDIN: usize = 0;
const DNS: usize = 1;
const TALK: usize = 2;
const PROGRAM: usize = 3;
const TETHERS: usize = 4;

impl Said for Words {
    fn doors(&self) -> &[Left] {
        &self.doors
    }
}

/// What a will is made of, beside the posts.
pub(crate) struct Belongings {
    /// Listeners of the process itself.
    pub(crate) listeners: Vec<Handed>,
    /// Its DNS socket.
    pub(crate) dns: OwnedFd,
    /// Its children, by name.
    pub(crate) children: Vec<(String, u32)>,
    /// Who hears how it went.
    pub(crate) talk: Talk,
    /// When it was begun, by the wall clock, in milliseconds.
    pub(crate) since: u64,
}

impl Will {
    /// Makes one. The posts end by it, their children go on.
    ///
    /// # Errors
    /// If one of the proxies is in this program itself, or the process is out of descriptors.
    pub(crate) async fn make(posts: &[Post], belongings: Belongings) -> Result<Self> {
        let Belongings { listeners: own, dns, children, talk, since } = belongings;
        let stdin =
            std::io::stdin().as_fd().try_clone_to_owned().or_else(|_| File::open("/dev/null").map(OwnedFd::from))?;
        let program = File::open(supervise::own_binary()).context("cannot open this binary")?;
        let mut files = vec![stdin, dns, talk.into_fd()?, program.into()];
        let (mut places, mut listeners) = (Vec::new(), Vec::new());
        for post in posts {
            let Some(Parted { charge, binary, held, heir }) = post.part().await else {
                bail!("{} can not be left as it is", post.name);
            };
            let child = heir.as_ref().map(|(pid, version, _)| (*pid, version.clone()));
            files.extend(heir.and_then(|(_, _, tether)| tether.as_fd().try_clone_to_owned().ok()));
            let (name, binary, doors) = (post.name.clone(), binary.into(), held.len());
            places.push(Place { name, charge, binary, doors, child });
            listeners.extend(held);
        }
        listeners.extend(own);
        let words = Words {
            doors: Vec::new(),
            posts: places,
            children,
            files: files.len(),
            since,
            arguments: arguments()?,
            refused: None,
        };
        Ok(Self { words, listeners, files })
    }

    /// Becomes `binary`, which reads this will; comes back only if that isn't possible.
    pub(crate) fn execute(&self, binary: &OsStr) -> std::io::Error {
        let leave = || {
            let (tether, other) = Tether::will()?;
            let files: Vec<_> = self.files.iter().map(AsFd::as_fd).collect();
            send(&tether, &self.listeners, &files, |doors| form(&Words { doors, ..self.words.clone() }))?;
            Ok(other)
        };
        match leave() {
            Ok(other) => supervise::become_binary(binary, &self.words.arguments, other),
            Err(error) => error,
        }
    }

    /// Says to the next program that another one was to come.
    pub(crate) fn refuse(&mut self, why: String) {
        self.words.refused = Some(why);
    }

    /// Whether another program couldn't go on by this will.
    pub(crate) const fn was_declined(&self) -> bool {
        self.words.refused.is_some()
    }

    /// Goes back to the program that left this, as this one can't go on for it.
    pub(crate) fn decline(mut self, why: &Failure) -> std::io::Error {
        self.refuse(if why.code.is_empty() { why.detail.clone() } else { format!("{}: {}", why.code, why.detail) });
        let program = format!("/proc/self/fd/{}", self.files[PROGRAM].as_raw_fd());
        self.execute(OsStr::new(&program))
    }

    /// The will that an earlier program has left as standard input, which is as it was again.
    ///
    /// # Errors
    /// If there is none.
    pub(crate) fn read() -> Result<Self> {
        let mut inbox = Inbox { tether: Tether::from_stdin()?, files: VecDeque::new() };
        let (words, listeners) = inbox.next::<Words>()?.context("the earlier program left nothing")?;
        let files: Vec<OwnedFd> = inbox.files.into();
        if files.len() != words.files || files.len() < TETHERS {
            bail!("the earlier program left {} files of {}", files.len(), words.files);
        }
        supervise::take_stdin(files[STDIN].try_clone()?)?;
        Ok(Self { words, listeners, files })
    }

    /// The own listeners.
    pub(crate) fn listeners(&self) -> impl Iterator<Item = (&str, &Listener)> {
        let posts: usize = self.words.posts.iter().map(|place| place.doors).sum();
        self.listeners[posts..].iter().filter_map(|handed| Some((handed.door.as_str(), handed.sockets.first()?)))
    }

    /// The DNS socket.
    pub(crate) fn dns(&self) -> std::io::Result<OwnedFd> {
        self.files[DNS].try_clone()
    }

    /// Listeners of the post of this name.
    pub(crate) fn listener_of(&self, name: &str, is: impl Fn(&str) -> bool) -> Option<&Listener> {
        let mut from = 0;
        for place in &self.words.posts {
            let all = &self.listeners[from..from + place.doors];
            from += place.doors;
            if place.name == name {
                return all.iter().find(|handed| is(&handed.door))?.sockets.first();
            }
        }
        None
    }

    /// Goes on in place of the earlier program: its posts, its children, and who is to be told.
    ///
    /// # Errors
    /// If threads or descriptors have run out.
    pub(crate) fn accept(self, globals: &Globals) -> Result<Inherited> {
        let mut tethers = self.files.iter().skip(TETHERS);
        let mut listeners = self.listeners.iter();
        let mut posts = Vec::new();
        for place in self.words.posts {
            let heir = match place.child {
                None => None,
                Some((pid, version)) => {
                    let tether = tethers.next().context("a tether is missing")?.try_clone()?;
                    Some((pid, version, Tether::from_fd(tether)))
                }
            };
            let held = listeners.by_ref().take(place.doors).map(Handed::share).collect();
            let parted = Parted { charge: place.charge, binary: place.binary.into(), held, heir };
            posts.push(Post::resume(globals, &place.name, parted)?);
        }
        let talk = Talk::from_fd(self.files[TALK].try_clone()?)?;
        let Words { children, since, refused, .. } = self.words;
        Ok(Inherited { posts, children, talk, since, refused })
    }
}

/// What this process was started with, for a program that goes on in it.
fn arguments() -> Result<Vec<String>> {
    let own = std::env::args_os().skip(1).map(std::ffi::OsString::into_string);
    let own: Result<Vec<_>, _> =
        own.filter(|argument| !argument.as_ref().is_ok_and(|is| is.starts_with(RESUME))).collect();
    let own = own.map_err(|argument| anyhow::anyhow!("the argument {} is not Unicode", argument.display()))?;
    Ok(own.into_iter().chain([format!("{RESUME}{FORMAT}")]).collect())
}

/// Whether a program understands what this process was started with: if it didn't, nobody could go back.
///
/// # Errors
/// If it doesn't.
pub(crate) async fn try_out(binary: &Path) -> Result<(), Failure> {
    let failed = |what: String| {
        let code = &code::HAND_OVER;
        Failure::new(code.id, what).at(binary.display().to_string()).next(code.next)
    };
    let arguments = arguments().map_err(|error| failed(error.to_string()))?;
    let trial = arguments.into_iter().filter(|argument| !argument.starts_with(RESUME));
    let trial: Vec<String> = trial.chain([format!("{RESUME}{TRIAL}")]).collect();
    let process = Process::spawn_trial(binary, &trial).map_err(|error| failed(format!("{error:#}")))?;
    match process.ended_within(TRIAL_MAX).await {
        Some(Exit::Status(0)) => Ok(()),
        Some(exit) => Err(failed(format!(
            "it does not understand the arguments of this process ({exit}); what it said is in its log"
        ))),
        None => {
            process.signal(Signal::Kill);
            Err(failed("it does not say whether it understands the arguments of this process".to_owned()))
        }
    }
}

/// What is left when a will was read and accepted.
pub(crate) struct Inherited {
    pub(crate) posts: Vec<Post>,
    pub(crate) children: Vec<(String, u32)>,
    pub(crate) talk: Talk,
    pub(crate) since: u64,
    pub(crate) refused: Option<String>,
}
