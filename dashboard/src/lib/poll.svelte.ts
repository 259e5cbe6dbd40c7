// SPDX-License-Identifier: Apache-2.0
// Asking again and again: one question at a time, a second after the last answer, never while hidden.

const PAUSE_MS = 1000;
const PAUSE_FAILED_MS = 3000;

/** Runs `ask` until the caller's effect ends; a change of what `ask` reads before it waits starts it anew. */
export function poll(ask: (signal: AbortSignal) => Promise<void>, pause = PAUSE_MS): void {
  $effect(() => {
    const stop = new AbortController();
    let timer: ReturnType<typeof setTimeout> | undefined;
    let busy = false;
    const round = async (first: Promise<void>): Promise<void> => {
      busy = true;
      let wait = pause;
      try {
        await first;
      } catch {
        wait = Math.max(pause, PAUSE_FAILED_MS);
      }
      busy = false;
      if (!stop.signal.aborted && !document.hidden) timer = setTimeout(() => void round(ask(stop.signal)), wait);
    };
    const wake = () => {
      if (document.hidden || busy) return;
      clearTimeout(timer);
      void round(ask(stop.signal));
    };
    document.addEventListener("visibilitychange", wake);
    void round(ask(stop.signal));
    return () => {
      stop.abort();
      clearTimeout(timer);
      document.removeEventListener("visibilitychange", wake);
    };
  });
}
