// Small conveniences; every page works without them.
"use strict";

// "/" moves to the find box, as on many sites, unless something is being typed.
document.addEventListener("keydown", (event) => {
  const typing = event.target.closest("input, textarea, select, [contenteditable]");
  const find = document.getElementById("find");
  if (event.key === "/" && !typing && find && !event.ctrlKey && !event.metaKey && !event.altKey) {
    event.preventDefault();
    find.focus();
  }
});

// A button beside each command copies it, where the browser lets pages write to the clipboard.
if (navigator.clipboard) {
  for (const command of document.querySelectorAll("[data-copy]")) {
    const button = document.createElement("button");
    button.type = "button";
    button.className = "quiet";
    button.textContent = "Copy";
    button.addEventListener("click", async () => {
      await navigator.clipboard.writeText(command.textContent);
      button.textContent = "Copied";
      setTimeout(() => { button.textContent = "Copy"; }, 1500);
    });
    command.after(" ", button);
  }
}

// A form of knobs: what differs from the recipe is marked, and the plan beside it follows.
const form = document.querySelector("form.new-run");
if (form) {
  const plan = document.getElementById("plan");
  const isChanged = (field) => (field.type === "checkbox" ? field.checked : field.value !== field.dataset.default);
  const fields = () => [...form.elements].filter((field) => field.name && field.type !== "hidden" && field.type !== "submit");
  let waiting = null, asked = 0;

  const show = async () => {
    const query = new URLSearchParams();
    for (const field of fields()) {
      if (isChanged(field)) query.append(field.name, field.value);
    }
    const words = query.toString();
    history.replaceState(null, "", words ? `?${words}` : location.pathname);
    const number = ++asked;
    plan.setAttribute("aria-busy", "true");
    try {
      const answer = await fetch(`${form.dataset.plan}?${words}`, { headers: { "X-Requested-With": "console" } });
      const html = await answer.text();
      if (number === asked) plan.innerHTML = html;  // rendered and escaped by the console; the policy lets no script in it run
    } catch (error) {
      if (number === asked) plan.textContent = "The console does not answer.";
    }
    if (number === asked) plan.removeAttribute("aria-busy");
  };

  form.addEventListener("input", (event) => {
    const group = event.target.closest(".group");
    event.target.closest(".knob")?.classList.toggle("changed", isChanged(event.target));
    const count = group?.querySelector("[data-count]");
    if (count) {
      const number = group.querySelectorAll(".knob.changed").length;
      count.hidden = number === 0;
      count.textContent = `${number} changed`;
    }
    clearTimeout(waiting);
    waiting = setTimeout(show, 250);
  });
  form.querySelector(".no-js")?.remove();
}

// A run under way: the console sends the part of the page that changed.
const now = document.querySelector("[data-events]");
if (now && window.EventSource) {
  const source = new EventSource(now.dataset.events);
  for (const name of ["now", "samples"]) {
    const part = document.getElementById(name);
    source.addEventListener(name, (event) => {
      const toggled = new Map([...part.querySelectorAll("details[id]")].map((details) => [details.id, details.open]));
      const focused = part.contains(document.activeElement) && document.activeElement.closest("details[id]")?.id;
      part.innerHTML = JSON.parse(event.data);  // rendered and escaped by the console
      for (const details of part.querySelectorAll("details[id]")) {
        if (toggled.has(details.id)) details.open = toggled.get(details.id);
      }
      if (focused) document.getElementById(focused)?.querySelector("summary").focus();
    });
  }
  source.addEventListener("end", () => { source.close(); location.reload(); });
}

// A page that waits for something is asked for again.
const again = document.querySelector("[data-again]");
if (again) setTimeout(() => location.reload(), Number(again.dataset.again));
