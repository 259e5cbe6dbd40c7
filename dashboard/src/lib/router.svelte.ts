// SPDX-License-Identifier: Apache-2.0
// Where we are: path and query hold all of a page's state, so that every view is a link.

class Place {
  path = $state(location.pathname);
  query = $state(location.search);
  readonly parts = $derived(this.path.split("/").filter(Boolean).map(decodeURIComponent));
  readonly params = $derived(new URLSearchParams(this.query));

  constructor() {
    addEventListener("popstate", () => this.read());
    addEventListener("click", (event) => this.follow(event));
  }

  private read(): void {
    this.path = location.pathname;
    this.query = location.search;
  }

  private follow(event: MouseEvent): void {
    if (event.defaultPrevented || event.button !== 0 || event.metaKey || event.ctrlKey || event.shiftKey || event.altKey) return;
    const link = (event.target as Element | null)?.closest("a[href]");
    const href = link?.getAttribute("href");
    if (!href?.startsWith("/") || link?.hasAttribute("download") || link?.getAttribute("target") === "_blank") return;
    event.preventDefault();
    this.go(href);
  }

  go(to: string, replace = false): void {
    const before = this.path;
    history[replace ? "replaceState" : "pushState"](null, "", to);
    this.read();
    if (before !== this.path) scrollTo(0, 0);
  }

  param(name: string): string {
    return this.params.get(name) ?? "";
  }

  /** The link to this page with some parameters changed; an empty value takes one out. */
  with(changes: Record<string, string>): string {
    const params = new URLSearchParams(this.query);
    for (const [name, value] of Object.entries(changes)) {
      if (value) params.set(name, value);
      else params.delete(name);
    }
    const text = params.toString();
    return text ? `${this.path}?${text}` : this.path;
  }

  set(changes: Record<string, string>, replace = true): void {
    this.go(this.with(changes), replace);
  }
}

export const place = new Place();

export const to = {
  map: "/",
  service: (name: string, namespace: string): string => `/services/${encodeURIComponent(namespace || "default")}/${encodeURIComponent(name)}`,
  resource: (kind: string, namespace: string, name: string): string => `/resources?${new URLSearchParams({ kind, ...(namespace ? { ns: namespace } : {}), name })}`,
  record: (id: string): string => `/live?${new URLSearchParams({ record: id })}`,
  live: (params: Record<string, string>): string => `/live?${new URLSearchParams(params)}`,
};
