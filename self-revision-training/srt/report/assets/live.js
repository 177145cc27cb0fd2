"use strict";
/* A page that follows its run: asks the server for the page, and takes over what has changed. */

const live = {
  period: 2000, // milliseconds
  line: document.getElementById("live"),
  blocks: new Map(), // key -> its markup as the server sent it
  etag: null,
  answered: true,

  async start() {
    live.remember(document.cloneNode(true));
    for (;;) {
      try {
        await live.ask();
      } catch (error) {
        console.error(error);
        live.say(`live: ${error}`);
      }
      await new Promise((resolve) => setTimeout(resolve, live.period));
    }
  },

  async ask() {
    const headers = live.etag ? { "If-None-Match": live.etag } : {};
    const response = await fetch(location.pathname, { headers, cache: "no-store" }).catch(() => null);
    const answered = response !== null;
    if (!answered) live.say("live: the server does not answer; it has ended, or will be asked again");
    else if (response.status === 200) {
      live.take(new DOMParser().parseFromString(await response.text(), "text/html"));
      live.etag = response.headers.get("ETag");
      live.say(`live: as of ${new Date().toLocaleTimeString()}`);
    } else if (response.status !== 304) {
      const answer = new DOMParser().parseFromString(await response.text(), "text/html");
      live.say(`live: ${answer.querySelector("p")?.textContent ?? response.statusText}`);
    } else if (!live.answered) live.say("live: connected again");
    live.answered = answered;
  },

  say(text) {
    live.line.textContent = text;
  },

  remember(page) {
    for (const block of page.querySelectorAll("[data-block]")) live.blocks.set(block.dataset.block, block.innerHTML);
  },

  /* Sections and blocks of the new page into this one. What scripts drew stays where its markup is the same. */
  take(page) {
    const main = document.querySelector("main");
    const here = (section) => main.querySelector(`[data-section="${section.dataset.section}"]`);
    for (const section of main.querySelectorAll("[data-section]"))
      if (!page.querySelector(`[data-section="${section.dataset.section}"]`)) section.remove();
    let before = null;
    for (const section of page.querySelectorAll("[data-section]")) {
      const old = here(section);
      if (!old) {
        if (before) before.after(document.importNode(section, true));
        else main.prepend(document.importNode(section, true));
      } else live.update(old, section);
      before = here(section);
    }
    live.remember(page);
    mountAll(page);
  },

  update(old, section) {
    const keys = (node) => [...node.querySelectorAll("[data-block], [data-widget]")].map((n) => n.dataset.block ?? n.dataset.widget);
    if (keys(old).join() !== keys(section).join()) {
      old.replaceWith(document.importNode(section, true));
      return;
    }
    for (const block of section.querySelectorAll("[data-block]"))
      if (live.blocks.get(block.dataset.block) !== block.innerHTML)
        old.querySelector(`[data-block="${block.dataset.block}"]`).replaceChildren(...document.importNode(block, true).childNodes);
  },
};
