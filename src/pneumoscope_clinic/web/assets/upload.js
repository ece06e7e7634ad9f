// Films by drag and drop or by the file dialogue; a batch goes up one film at a time, so that one that fails
// stops no other. The names of files stay in this browser: the server knows films by its own numbers.

const AT_ONCE = 2;

class Upload {
  constructor(form) {
    this.form = form;
    this.input = form.querySelector("input[type=file]");
    this.drop = form.querySelector("[data-drop]");
    this.list = form.querySelector("[data-chosen]");
    this.said = form.querySelector("[data-said]");
    this.bar = form.querySelector("progress");
    this.button = form.querySelector("button[type=submit]");
    this.limit = Number(form.dataset.limit);
    this.input.addEventListener("change", () => this.show());
    form.addEventListener("submit", (event) => { event.preventDefault(); this.send(); });
    for (const name of ["dragenter", "dragover"]) this.drop.addEventListener(name, (event) => this.hover(event, true));
    for (const name of ["dragleave", "drop"]) this.drop.addEventListener(name, (event) => this.hover(event, false));
    this.drop.addEventListener("drop", (event) => {
      if (event.dataTransfer.files.length) { this.input.files = event.dataTransfer.files; this.show(); }
    });
  }

  hover(event, over) {
    event.preventDefault();
    this.drop.classList.toggle("over", over);
  }

  show() {
    this.list.replaceChildren(...[...this.input.files].map((file) => {
      const line = document.createElement("li");
      const name = document.createElement("span");
      const state = document.createElement("span");
      name.textContent = file.name;
      state.textContent = file.size > this.limit ? this.form.dataset.tooLarge : `${(file.size / 1e6).toFixed(2)} MB`;
      state.className = file.size > this.limit ? "problem" : "soft";
      line.append(name, state);
      return line;
    }));
    this.said.textContent = this.form.dataset.chosen.replace("{count}", this.input.files.length);
  }

  async send() {
    const files = [...this.input.files];
    if (!files.length) { this.said.textContent = this.form.dataset.none; this.input.focus(); return; }
    this.button.disabled = true;
    this.bar.hidden = false;
    this.bar.max = files.length;
    try {
      const batch = files.length > 1 ? (await this.post(this.form.dataset.batches, this.fields())).batch : null;
      const sent = await this.all(files, batch);
      if (!sent.length) { this.failed(); return; }
      location.assign(batch ? this.form.dataset.batch.replace("{batch}", batch) : this.form.dataset.film.replace("{film}", sent[0]));
    } catch (error) {
      this.said.textContent = error.message || this.form.dataset.failed;
      this.failed();
    }
  }

  failed() {
    this.button.disabled = false;
    this.bar.hidden = true;
    this.input.focus();
  }

  async all(files, batch) {
    const sent = [];
    let next = 0;
    let done = 0;
    const work = async () => {
      while (next < files.length) {
        const number = next;
        next += 1;
        const film = await this.one(files[number], batch, this.list.children[number]?.lastChild);
        done += 1;
        this.bar.value = done;
        this.said.textContent = this.form.dataset.sent.replace("{done}", done).replace("{count}", files.length);
        if (film) sent.push(film);
      }
    };
    await Promise.all(Array.from({ length: Math.min(AT_ONCE, files.length) }, work));
    return sent;
  }

  async one(file, batch, state) {
    const fields = this.fields();
    fields.append("films", file, "film"); // not the file's own name
    if (batch) fields.append("batch", batch);
    try {
      if (file.size > this.limit) throw new Error(this.form.dataset.tooLarge);
      const { film } = await this.post(this.form.action, fields);
      sessionStorage.setItem(`film ${film}`, file.name);
      if (state) { state.textContent = this.form.dataset.arrived; state.className = "soft"; }
      return film;
    } catch (error) {
      const problem = error.message || this.form.dataset.failed;
      if (state) { state.textContent = problem; state.className = "problem"; }
      if (!batch) throw error;
      return null;
    }
  }

  fields() {
    const fields = new FormData(this.form);
    fields.delete("films");
    return fields;
  }

  async post(address, body) {
    const answer = await fetch(address, { method: "POST", body, headers: { Accept: "application/json" }, redirect: "error" });
    const said = await answer.json().catch(() => ({}));
    if (!answer.ok) throw new Error(said.detail || this.form.dataset.failed);
    return said;
  }
}

for (const form of document.querySelectorAll("form[data-upload]")) new Upload(form);
