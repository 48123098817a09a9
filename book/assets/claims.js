// A filter above the claims of the page of results. What is chosen stands in the address, as
// #verdict=holds&part=distillation&words=cosine; any other hash is a place on the page.
document.addEventListener("DOMContentLoaded", () => {
  const boxes = [...document.querySelectorAll(".claims.verdicts")];
  if (!boxes.length) return;
  const claims = boxes.flatMap((box) => [...box.querySelectorAll("tbody tr")].map((row) => ({
    row,
    box,
    part: box.closest("section"),
    verdict: row.lastElementChild.textContent.trim(),
    words: row.textContent.toLowerCase(),
  })));
  const parts = [...new Set(claims.map((claim) => claim.part))];
  const title = (part) => part.querySelector("h2, h3").firstChild.textContent.trim();
  const count = (key, value) => claims.filter((claim) => claim[key] === value).length;
  const option = (value, name, number) => new Option(`${name} (${number})`, value);

  const form = document.createElement("form");
  form.className = "claims-filter";
  form.setAttribute("role", "search");
  form.setAttribute("aria-label", "Claims");
  form.innerHTML = `
    <label>Verdict <select name="verdict"></select></label>
    <label>Part <select name="part"></select></label>
    <label>Words <input type="search" name="words" autocomplete="off"></label>
    <button type="reset">Show all</button>
    <output aria-live="polite"></output>`;
  const { verdict, part, words } = form.elements;
  verdict.append(option("", "all", claims.length), ...[...new Set(claims.map((c) => c.verdict))]
    .map((name) => option(name, name === "—" ? "not run yet" : name, count("verdict", name))));
  part.append(option("", "all", claims.length),
    ...parts.map((section) => option(section.id, title(section), count("part", section))));

  const apply = () => {
    const asked = words.value.toLowerCase().split(/\s+/).filter(Boolean);
    const shown = new Set(claims.filter((claim) => {
      const here = (!verdict.value || claim.verdict === verdict.value)
        && (!part.value || claim.part.id === part.value)
        && asked.every((word) => claim.words.includes(word));
      claim.row.hidden = !here;
      return here;
    }));
    // a table without a row goes, with the words on its runs; so does a section without a table
    const left = new Set([...shown].flatMap(({ box }) => {
      const around = [box];
      for (let e = box; e; e = e.parentElement.closest("section")) around.push(e);
      return around;
    }));
    for (const box of boxes) {
      box.hidden = !left.has(box);
      const before = box.previousElementSibling;
      if (before?.matches("p")) before.hidden = box.hidden;
      for (let e = box.closest("section"); e; e = e.parentElement.closest("section")) {
        e.hidden = !left.has(e) && e !== home;
      }
    }
    form.querySelector("output").textContent = shown.size
      ? `${shown.size} of ${claims.length} claims` : "No claim is like that.";
  };

  const write = () => {
    const chosen = new URLSearchParams();
    for (const field of [verdict, part, words]) {
      if (field.value) chosen.set(field.name, field.value);
    }
    const hash = chosen.size ? `#${chosen}` : location.pathname + location.search;
    history.replaceState(null, "", hash);
  };
  const read = () => {
    const hash = location.hash.slice(1);
    if (hash.includes("=")) {
      const asked = new URLSearchParams(hash);
      for (const field of [verdict, part]) {
        const known = [...field.options].map((o) => o.value);
        const value = asked.get(field.name) ?? "";
        field.value = known.includes(value) ? value : "";
      }
      words.value = asked.get("words") ?? "";
    } else if (hash) {
      // a link to one claim, or to a section, must not lead to what is hidden
      form.reset();
    }
    apply();
    if (hash && !hash.includes("=")) document.getElementById(hash)?.scrollIntoView();
  };

  const home = parts[0].closest("section:has(> h1)");
  home.querySelector(":scope > section").before(form);
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("input", () => { apply(); write(); });
  // the fields are empty only after this event
  form.addEventListener("reset", () => setTimeout(() => { apply(); write(); }));
  addEventListener("hashchange", read);
  read();
});
