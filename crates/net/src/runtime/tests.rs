// SPDX-License-Identifier: Apache-2.0
//! Cores, tasks and clocks.

use super::*;
use std::sync::mpsc::channel;

const LIMIT: Duration = Duration::from_secs(10);

#[test]
fn a_core_runs_its_tasks_on_one_named_thread() {
    let (sender, receiver) = channel();
    let core = spawn_core("core-7", Some(0), || async move {
        let name = || std::thread::current().name().map(str::to_owned);
        let outside = std::rc::Rc::new(Cell::new(None));
        let inside = std::rc::Rc::clone(&outside);
        spawn_local("test", async move { inside.set(name()) }).ended().await;
        sender.send((name(), outside.take())).unwrap();
    });
    let named = Some("core-7".to_owned());
    assert_eq!(receiver.recv_timeout(LIMIT).unwrap(), (named.clone(), named));
    assert_eq!(core.unwrap().join(), Ok(()));
}

#[test]
fn a_processor_that_is_not_there_is_no_error() {
    let core = spawn_core("core", Some(100_000), || async {}).unwrap();
    assert_eq!(core.join(), Ok(()));
}

#[test]
fn what_is_to_go_on_begins_again_after_a_panic() {
    let before = panics();
    let (mut begun, mended) = (0, Cell::new(0));
    let work = async || {
        begun += 1;
        tokio::task::yield_now().await;
        assert!(begun >= 3, "on purpose");
    };
    block_on(keep("test", work, || mended.set(mended.get() + 1))).unwrap();
    assert_eq!((begun, mended.get()), (3, 2));
    assert!(panics() >= before + 2);
}

#[test]
fn a_panic_ends_its_task_alone_and_is_counted() {
    let before = panics();
    block_on(async {
        spawn_local("test", async { panic!("on purpose") }).ended().await;
        spawn("test", async { panic!("on purpose, {}", 2) }).ended().await;
        assert_eq!(catch("test", async { 7 }).await, Ok(7));
        assert_eq!(catch("test", async { panic!("again") }).await, Err::<(), _>(Panicked));
    })
    .unwrap();
    assert!(panics() >= before + 3);
    let core = spawn_core("core", None, || async { panic!("on purpose") }).unwrap();
    assert_eq!(core.join(), Err(Panicked));
    assert!(panics() >= before + 4);
}

#[test]
fn a_task_ends_with_its_owner() {
    block_on(async {
        let (sender, receiver) = tokio::sync::oneshot::channel::<()>();
        let task = spawn("test", async move {
            let _sender = sender;
            std::future::pending().await
        });
        let owned = task.abort_on_drop();
        drop(owned);
        assert!(timeout(LIMIT, receiver).await.unwrap().is_err());
    })
    .unwrap();
}

#[test]
fn a_group_ends_in_time() {
    block_on(async {
        let mut group = Group::new();
        group.spawn("test", async {});
        group.spawn("test", std::future::pending());
        assert!(!group.is_empty());
        assert_eq!(group.end_within(Duration::from_millis(20)).await, 1);
        let mut group = Group::new();
        group.spawn("test", async {});
        assert_eq!(group.end_within(LIMIT).await, 0);
    })
    .unwrap();
}

#[test]
fn a_shutdown_reaches_everybody_and_stays() {
    block_on(async {
        let (trigger, mut first) = shutdown();
        let mut second = trigger.subscribe();
        assert!(!first.is_over());
        trigger.fire();
        for stop in [&mut first, &mut second] {
            timeout(LIMIT, stop.wait()).await.unwrap();
            timeout(LIMIT, stop.wait()).await.unwrap();
            assert!(stop.is_over());
        }
        let (trigger, mut orphan) = shutdown();
        drop(trigger);
        timeout(LIMIT, orphan.wait()).await.unwrap();
        assert!(orphan.is_over());
    })
    .unwrap();
}

#[test]
fn the_coarse_clock_never_lags_behind_a_sleep() {
    block_on(async {
        let before = coarse().mono;
        sleep(Duration::from_millis(30)).await;
        assert!(coarse().mono.since(before) >= Duration::from_millis(30));
        let held = coarse();
        let repeated = (0..COARSE_USES_MAX * 2).filter(|_| coarse() == held).count();
        assert!(repeated < COARSE_USES_MAX as usize);
    })
    .unwrap();
}

#[test]
fn time_is_up_when_it_is() {
    block_on(async {
        assert_eq!(timeout(Duration::from_millis(5), std::future::pending::<()>()).await, Err(Elapsed));
        assert_eq!(timeout(LIMIT, async { 1 }).await, Ok(1));
    })
    .unwrap();
}

/// By the reactor's own way to yield, which `accept` and others of this crate and of `proxy` rely on.
#[test]
fn all_who_are_ready_have_their_turn_before_whoever_yields() {
    const READY: usize = 500;
    block_on(async {
        let (turns, seen) = (std::rc::Rc::new(Cell::new(0)), std::rc::Rc::new(Cell::new(0)));
        let (all, then) = (std::rc::Rc::clone(&turns), std::rc::Rc::clone(&seen));
        let yields = spawn_local("test", async move {
            tokio::task::yield_now().await;
            then.set(all.get());
        });
        for _ in 0..READY {
            let turns = std::rc::Rc::clone(&turns);
            spawn_local("test", async move { turns.set(turns.get() + 1) });
        }
        yields.ended().await;
        assert_eq!(seen.get(), READY);
    })
    .unwrap();
}
