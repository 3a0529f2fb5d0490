//! A thread for what would keep the control loop waiting.

use std::{
    io,
    sync::mpsc::{Receiver, Sender, channel},
    thread::{self, JoinHandle},
};

/// It ends before this does: dropping it waits for what is being done.
pub(super) struct Worker<T> {
    jobs: Option<Sender<T>>,
    thread: Option<JoinHandle<()>>,
}

impl<T: Send + 'static> Worker<T> {
    /// `work` is to return once no more jobs can come.
    pub fn start(name: &str, work: impl FnOnce(&Receiver<T>) + Send + 'static) -> io::Result<Self> {
        let (jobs, receiver) = channel();
        let thread = thread::Builder::new().name(name.to_owned()).stack_size(256 << 10);
        let thread = thread.spawn(move || work(&receiver))?;
        Ok(Self { jobs: Some(jobs), thread: Some(thread) })
    }

    pub fn send(&self, job: T) -> io::Result<()> {
        self.jobs.as_ref().map_or(Ok(()), |jobs| jobs.send(job)).map_err(|_| io::Error::other("its thread has ended"))
    }
}

impl<T> Drop for Worker<T> {
    fn drop(&mut self) {
        self.jobs = None;
        // It has said what went wrong.
        let _ = self.thread.take().map(JoinHandle::join);
    }
}
