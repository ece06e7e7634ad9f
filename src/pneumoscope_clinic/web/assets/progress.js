// Films as they are examined: server-sent events, and asking every two seconds where those do not come through.

const EVERY_MS = 2000;

class Progress {
  constructor(root) {
    this.root = root;
    this.known = new Map();
    for (const row of root.querySelectorAll("[data-film-id]")) {
      const name = sessionStorage.getItem(`film ${row.dataset.filmId}`);
      const place = row.querySelector("[data-name-of-file]");
      if (name && place) place.textContent = name;
    }
    if (root.dataset.done !== "true") this.listen();
  }

  listen() {
    if (!window.EventSource) { this.ask(); return; }
    const source = new EventSource(this.root.dataset.events);
    source.addEventListener("progress", (event) => {
      if (this.show(JSON.parse(event.data))) source.close();
    });
    source.addEventListener("error", () => {
      if (source.readyState === EventSource.CLOSED) this.ask();
    });
  }

  async ask() {
    const answer = await fetch(this.root.dataset.state, { headers: { Accept: "application/json" } }).catch(() => null);
    if (answer?.ok && this.show(await answer.json())) return;
    setTimeout(() => this.ask(), EVERY_MS);
  }

  // Returns whether all films are settled.
  show(state) {
    const finished = state.done >= state.count && state.count > 0;
    if (this.root.dataset.reload) {
      if (finished) location.reload();
      return finished;
    }
    const bar = this.root.querySelector("progress");
    bar.max = Math.max(1, state.count);
    bar.value = state.done;
    const said = this.root.querySelector("[data-said]");
    if (said.textContent !== state.said) said.textContent = state.said;
    for (const film of state.films) this.row(film);
    if (state.films.some((film) => !this.rowOf(film.id))) location.reload();
    return finished;
  }

  rowOf(id) { return this.root.querySelector(`[data-film-id="${CSS.escape(id)}"]`); }

  row(film) {
    const row = this.rowOf(film.id);
    if (!row || this.known.get(film.id) === film.outcome) return;
    this.known.set(film.id, film.outcome);
    const badge = row.querySelector(".outcome");
    badge.className = `outcome ${film.outcome}`;
    badge.querySelector("use").setAttribute("href", badge.querySelector("use").getAttribute("href").replace(/#.*/, `#${film.outcome}`));
    badge.querySelector("span").textContent = film.title;
    row.querySelector("[data-probability]").textContent = film.probability;
  }
}

for (const root of document.querySelectorAll("[data-events]")) new Progress(root);
