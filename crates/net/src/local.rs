// SPDX-License-Identifier: Apache-2.0
//! Talk between processes of this machine: a [`Tether`] between a process and its child, which also carries open
//! files, and a [`Door`] in the file system, by which commands reach a process. Nothing here knows what is said.

use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
};
use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};

#[cfg(test)]
mod tests;

/// Longest message of a [`Tether`]: below what the kernel takes in one piece by default.
pub const MESSAGE_BYTES_MAX: usize = 128 * 1024;
/// Most open files in one message. The kernel takes 253.
pub const FILES_MAX: usize = 64;
/// Longest line of a [`Talk`].
const LINE_BYTES_MAX: u64 = 64 * 1024;

/// One end of a line between a process and its child. Messages come whole and in order; the end of the process
/// at the other end is the end of the tether.
#[derive(Debug)]
pub struct Tether(OwnedFd);

impl Tether {
    /// Both ends of a new one; the second is for the child.
    ///
    /// # Errors
    /// If the system is out of descriptors.
    pub fn pair() -> io::Result<(Self, OwnedFd)> {
        let (own, other) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        Ok((Self(own), other))
    }

    /// The end that a parent has given to this process as its standard input.
    ///
    /// # Errors
    /// If that is something else.
    pub fn from_stdin() -> io::Result<Self> {
        let own = io::stdin().as_fd().try_clone_to_owned()?;
        if rustix::net::sockopt::socket_type(&own)? != SocketType::SEQPACKET {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "standard input is no tether"));
        }
        Ok(Self(own))
    }

    /// Both ends of one that a process leaves to itself, for after it has become another program: what is sent into the
    /// first waits in the second. Nobody reads meanwhile, so a send that finds no room fails.
    ///
    /// # Errors
    /// If the system is out of descriptors.
    pub fn will() -> io::Result<(Self, OwnedFd)> {
        let (own, other) = Self::pair()?;
        rustix::io::ioctl_fionbio(&own.0, true)?;
        Ok((own, other))
    }

    /// The end that another process had.
    pub fn from_fd(fd: OwnedFd) -> Self {
        Self(fd)
    }

    /// Another handle on the same end.
    ///
    /// # Errors
    /// If the process is out of descriptors.
    pub fn try_clone(&self) -> io::Result<Self> {
        self.0.try_clone().map(Self)
    }

    /// Sends one message, and files with it. Blocks while the other end has much unread.
    ///
    /// # Errors
    /// If the other end is gone, or the message is empty or too long, or there are too many files.
    pub fn send(&self, message: &[u8], files: &[BorrowedFd<'_>]) -> io::Result<()> {
        if message.is_empty() || message.len() > MESSAGE_BYTES_MAX || files.len() > FILES_MAX {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "a message of no fitting size"));
        }
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FILES_MAX))];
        let mut beside = SendAncillaryBuffer::new(&mut space);
        if !files.is_empty() {
            beside.push(SendAncillaryMessage::ScmRights(files));
        }
        loop {
            match sendmsg(&self.0, &[IoSlice::new(message)], &mut beside, SendFlags::NOSIGNAL) {
                Err(rustix::io::Errno::INTR) => {}
                sent => return sent.map(|_| ()).map_err(io::Error::from),
            }
        }
    }

    /// Waits for the next message, with its files; `None` once the other end is gone. Blocks.
    ///
    /// # Errors
    /// If a message or its files don't fit.
    pub fn receive(&self) -> io::Result<Option<(Vec<u8>, Vec<OwnedFd>)>> {
        let mut message = vec![0; MESSAGE_BYTES_MAX];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FILES_MAX))];
        let mut beside = RecvAncillaryBuffer::new(&mut space);
        let received = loop {
            let room = &mut [IoSliceMut::new(&mut message)];
            match recvmsg(&self.0, room, &mut beside, RecvFlags::CMSG_CLOEXEC) {
                // The other end is gone and hasn't read all: said once, and before what it sent itself.
                Err(rustix::io::Errno::INTR | rustix::io::Errno::CONNRESET) => {}
                received => break received?,
            }
        };
        let files = beside.drain().filter_map(|beside| match beside {
            RecvAncillaryMessage::ScmRights(files) => Some(files),
            _ => None,
        });
        let files = files.flatten().collect();
        if received.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC) {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "a message was cut short"));
        }
        message.truncate(received.bytes);
        Ok((received.bytes > 0).then_some((message, files)))
    }
}

/// A socket in the file system, by which commands of the same user reach this process.
#[derive(Debug)]
pub struct Door {
    listener: UnixListener,
    path: PathBuf,
}

impl Door {
    /// Listens at `path`, in place of one that a process before may have left there.
    ///
    /// # Errors
    /// If its folder can't be used.
    pub fn bind(path: &Path) -> io::Result<Self> {
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let folder = folder(path)?;
        let listener = UnixListener::bind(short(&folder, path))?;
        Ok(Self { listener, path: path.to_owned() })
    }

    /// The next command. Those of other users are turned away unheard.
    ///
    /// # Errors
    /// If the process is out of descriptors.
    pub async fn accept(&self) -> io::Result<Talk> {
        loop {
            let (stream, _) = self.listener.accept().await?;
            if stream.peer_cred().is_ok_and(|peer| peer.uid() == rustix::process::geteuid().as_raw()) {
                return Ok(Talk::new(stream));
            }
        }
    }
}

impl AsFd for Tether {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        // Whoever comes next removes what is left.
        drop(std::fs::remove_file(&self.path));
    }
}

/// Lines of text both ways.
#[derive(Debug)]
pub struct Talk(BufReader<UnixStream>);

impl Talk {
    fn new(stream: UnixStream) -> Self {
        Self(BufReader::new(stream))
    }

    /// Opens one to the process that listens at `path`.
    ///
    /// # Errors
    /// If none does.
    pub async fn open(path: &Path) -> io::Result<Self> {
        let folder = folder(path)?;
        let stream = UnixStream::connect(short(&folder, path)).await?;
        Ok(Self::new(stream))
    }

    /// The connection, for another program in this process.
    ///
    /// # Errors
    /// If the reactor doesn't let go of it.
    pub fn into_fd(self) -> io::Result<OwnedFd> {
        self.0.into_inner().into_std().map(OwnedFd::from)
    }

    /// The connection that an earlier program had.
    ///
    /// # Errors
    /// If it's none.
    pub fn from_fd(fd: OwnedFd) -> io::Result<Self> {
        UnixStream::from_std(fd.into()).map(Self::new)
    }

    /// The next line; `None` at the end.
    ///
    /// # Errors
    /// If the connection breaks, or a line is too long.
    pub async fn next(&mut self) -> io::Result<Option<String>> {
        let mut line = String::new();
        let read = (&mut self.0).take(LINE_BYTES_MAX).read_line(&mut line).await?;
        match line.strip_suffix('\n') {
            Some(line) => Ok(Some(line.to_owned())),
            None if read == 0 => Ok(None),
            None => Err(io::Error::new(io::ErrorKind::InvalidData, "a line without end")),
        }
    }

    /// Says one line.
    ///
    /// # Errors
    /// If the other side is gone.
    pub async fn say(&mut self, line: &str) -> io::Result<()> {
        self.0.get_mut().write_all(format!("{line}\n").as_bytes()).await
    }
}

fn folder(path: &Path) -> io::Result<File> {
    File::open(path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or_else(|| Path::new(".")))
}

/// A path by its folder's descriptor: as it is, it may be longer than the 107 bytes that an address holds.
fn short(folder: &File, path: &Path) -> PathBuf {
    let folder = PathBuf::from(format!("/proc/self/fd/{}", folder.as_raw_fd()));
    path.file_name().map_or_else(|| folder.clone(), |name| folder.join(name))
}
