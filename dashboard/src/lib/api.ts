// SPDX-License-Identifier: Apache-2.0
// The console's HTTP API: the token, requests, and errors as the console words them.

const KEY = "byrnie-token";

/** Takes the token out of the address bar, where `byrnie up` put it, into this tab's storage. */
export function adoptToken(): void {
  const found = /^#token=([^&]+)/.exec(location.hash);
  if (!found?.[1]) return;
  sessionStorage.setItem(KEY, decodeURIComponent(found[1]));
  history.replaceState(null, "", location.pathname + location.search);
}

export const token = (): string => sessionStorage.getItem(KEY) ?? "";
export const setToken = (text: string): void => sessionStorage.setItem(KEY, text.trim());
export const dropToken = (): void => sessionStorage.removeItem(KEY);

/** What the console says went wrong (RFC 9457, with byrnie's members). */
export class Problem extends Error {
  constructor(
    readonly status: number,
    readonly code: string,
    detail: string,
    readonly where: string,
    readonly next: string,
  ) {
    super(detail);
  }
}

const REQUEST_MS = 10_000;

/** Asks the console; `path` is below `/api/v1/` unless it begins with a slash. */
export async function call<T>(method: string, path: string, body?: unknown, signal?: AbortSignal): Promise<T> {
  const headers: Record<string, string> = { authorization: `Bearer ${token()}`, accept: "application/json" };
  if (body !== undefined) headers["content-type"] = "application/json";
  const limit = AbortSignal.timeout(REQUEST_MS);
  let answer: Response;
  try {
    answer = await fetch(path.startsWith("/") ? path : `/api/v1/${path}`, {
      method,
      headers,
      body: body === undefined ? undefined : JSON.stringify(body),
      signal: signal ? AbortSignal.any([signal, limit]) : limit,
    });
  } catch (error) {
    if (signal?.aborted) throw error;
    throw new Problem(0, "", "the console does not answer", location.host, "byrnie status");
  }
  const text = await answer.text();
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    value = undefined;
  }
  if (answer.ok && value !== undefined) return value as T;
  const said = (value ?? {}) as Record<string, string | undefined>;
  const detail = said.detail || `the console answered ${answer.status}`;
  throw new Problem(answer.status, said.code ?? "", detail, said.where ?? "", said.next ?? "");
}

export const get = <T>(path: string, signal?: AbortSignal): Promise<T> => call<T>("GET", path, undefined, signal);
