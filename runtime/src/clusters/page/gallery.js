"use strict";
// The page of a gallery. Data arrives as scripts that call the functions of `gallery`: a page that is opened from the
// file system may not fetch, but it may add scripts.
const gallery = (() => {
  const CLUSTERS_A_PAGE = 48;
  const STRIP = 10;
  const IMAGES_A_PAGE = 200;
  const MOST_FOUND = 200;

  const element = (id) => document.getElementById(id);
  let all = null;
  const arrived = { images: new Map(), neighbours: new Map() };
  const requests = new Map();
  let drawing = 0;

  // ---- Data

  /** Adds the script of a block once; a promise of what it hands over. */
  function block(kind, number) {
    const key = kind + "-" + String(number).padStart(4, "0");
    if (!requests.has(key)) {
      requests.set(key, new Promise((resolve, reject) => {
        const script = document.createElement("script");
        script.src = "data/" + key + ".js";
        script.onload = () => resolve(arrived[kind].get(number));
        script.onerror = () => { requests.delete(key); reject(new Error(script.src + " could not be loaded")); };
        document.head.append(script);
      }));
    }
    return requests.get(key);
  }

  const blockOf = (image) => Math.floor(image / all.block);

  async function about(image) {
    const data = await block("images", blockOf(image));
    const at = image % all.block;
    const root = all.roots[data.roots[at]];
    return {
      image,
      name: data.names[at],
      similarity: data.similarity[at],
      className: data.classes[at] === null ? null : all.classNames[data.classes[at]],
      root: root.name,
      href: root.href === null ? null : encodeURI(root.href + data.names[at]).replaceAll("?", "%3F").replaceAll("#", "%23"),
    };
  }

  /** The cluster of an image: the last that starts at or before it and has images. */
  function clusterOf(image) {
    let low = 0, high = all.clusters.length - 1;
    while (low < high) {
      const middle = (low + high + 1) >> 1;
      if (all.clusters[middle][0] <= image) low = middle; else high = middle - 1;
    }
    return low;
  }

  // ---- Pieces of the page

  function make(tag, attributes = {}, ...children) {
    const node = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) {
      if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
      else node.setAttribute(name, value);
    }
    node.append(...children);
    return node;
  }

  // Sheets load when a thumbnail comes near the window.
  const seen = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      if (!entry.isIntersecting) continue;
      entry.target.style.backgroundImage = "url(" + entry.target.dataset.sheet + ")";
      seen.unobserve(entry.target);
    }
  }, { rootMargin: "300px" });

  function thumb(image, big = false) {
    const place = image % all.perSheet;
    const rows = Math.ceil(Math.min(all.perSheet, all.images - (image - place)) / all.columns);
    const node = make(big ? "div" : "button", { class: big ? "thumb big" : "thumb" });
    node.dataset.sheet = "sheets/" + String(Math.floor(image / all.perSheet)).padStart(4, "0") + ".jpg";
    node.style.backgroundSize = all.columns * 100 + "% " + rows * 100 + "%";
    const share = (at, count) => (count > 1 ? (100 * at) / (count - 1) : 0) + "%";
    node.style.backgroundPosition = share(place % all.columns, all.columns) + " " + share(Math.floor(place / all.columns), rows);
    if (!big) {
      node.type = "button";
      node.setAttribute("aria-label", "image " + image);
      node.addEventListener("click", () => open(image));
      const name = () => about(image).then((data) => { node.title = data.name; node.setAttribute("aria-label", data.name); }, report);
      node.addEventListener("pointerenter", name, { once: true });
      node.addEventListener("focus", name, { once: true });
    } else {
      node.setAttribute("role", "img");
      about(image).then((data) => node.setAttribute("aria-label", data.name), report);
    }
    seen.observe(node);
    return node;
  }

  const plural = (count, word) => count.toLocaleString("en") + " " + word + (count === 1 ? "" : "s");

  function describe(cluster) {
    const [, size, mean, mainClass, mainCount] = all.clusters[cluster];
    if (size === 0) return "no image is nearest to it";
    const parts = [plural(size, "image"), "mean similarity " + mean.toFixed(2)];
    if (mainClass !== null) parts.push(Math.round((100 * mainCount) / size) + " % " + all.classNames[mainClass]);
    return parts.join(" · ");
  }

  function twins(cluster) {
    return all.duplicates.filter(([a, b]) => a === cluster || b === cluster).map(([a, b, similarity]) => [a === cluster ? b : a, similarity]);
  }

  function twinLine(cluster) {
    const near = twins(cluster);
    if (near.length === 0) return [];
    const line = make("p", { class: "warn" }, "nearly the same as ");
    near.slice(0, 5).forEach(([other, similarity], index) => {
      line.append(index ? ", " : "", make("a", { href: "#cluster=" + other }, "prototype " + other), " (" + similarity.toFixed(3) + ")");
    });
    if (near.length > 5) line.append(" and " + (near.length - 5) + " more");
    return [line];
  }

  function pages(page, count, each, address) {
    const last = Math.max(1, Math.ceil(count / each));
    if (last === 1) return [];
    const go = (to) => () => { location.hash = address(to); };
    const button = (text, to, off) => {
      const node = make("button", { type: "button", onclick: go(to) }, text);
      node.disabled = off;
      return node;
    };
    return [make("nav", { class: "pages", "aria-label": "Pages" }, button("‹ Previous", page - 1, page <= 0),
      make("span", {}, "page " + (page + 1) + " of " + last), button("Next ›", page + 1, page >= last - 1))];
  }

  function show(...children) {
    element("main").replaceChildren(...children);
    window.scrollTo(0, 0);
  }

  function report(error) {
    element("main").prepend(make("p", { class: "warn", role: "alert" }, String(error.message || error)));
  }

  // ---- Views

  function chosen() {
    const filter = element("filter").value;
    const doubled = new Set(all.duplicates.flatMap(([a, b]) => [a, b]));
    const tests = {
      all: () => true,
      filled: (cluster) => all.clusters[cluster][1] > 0,
      empty: (cluster) => all.clusters[cluster][1] === 0,
      duplicate: (cluster) => doubled.has(cluster),
    };
    const size = (cluster) => all.clusters[cluster][1];
    const mean = (cluster) => all.clusters[cluster][2] ?? -1;
    const orders = {
      size: (a, b) => size(b) - size(a), small: (a, b) => size(a) - size(b), tight: (a, b) => mean(b) - mean(a),
      loose: (a, b) => mean(a) - mean(b), number: (a, b) => a - b,
    };
    return [...all.clusters.keys()].filter(tests[filter]).sort(orders[element("order").value]);
  }

  function showClusters(page) {
    const clusters = chosen();
    const from = page * CLUSTERS_A_PAGE;
    const cards = clusters.slice(from, from + CLUSTERS_A_PAGE).map((cluster) => {
      const [start, size] = all.clusters[cluster];
      const strip = make("div", { class: size ? "strip" : "strip empty" });
      for (let image = start; image < start + Math.min(size, STRIP); image++) strip.append(thumb(image));
      return make("li", {}, make("h2", {}, make("a", { href: "#cluster=" + cluster }, "Prototype " + cluster)),
        make("p", { class: "muted" }, describe(cluster)), ...twinLine(cluster), strip);
    });
    const nothing = cards.length ? [] : [make("p", { class: "muted" }, "There are none.")];
    show(make("ul", { class: "cards" }, ...cards), ...nothing,
      ...pages(page, clusters.length, CLUSTERS_A_PAGE, (to) => "page=" + to));
  }

  function showCluster(cluster, page) {
    if (!(cluster >= 0 && cluster < all.clusters.length)) return showClusters(0);
    const [start, size] = all.clusters[cluster];
    const from = start + page * IMAGES_A_PAGE;
    const grid = make("div", { class: "grid" });
    for (let image = from; image < Math.min(start + size, from + IMAGES_A_PAGE); image++) grid.append(thumb(image));
    show(make("p", {}, make("a", { href: "#" }, "‹ All clusters")), make("h2", {}, "Prototype " + cluster),
      make("p", { class: "muted" }, describe(cluster) + (size ? ", nearest first" : "")), ...twinLine(cluster), grid,
      ...pages(page, size, IMAGES_A_PAGE, (to) => "cluster=" + cluster + "&page=" + to));
  }

  async function showFound(text) {
    const mine = ++drawing;
    const wanted = text.toLowerCase();
    const found = [];
    let count = 0;
    for (let number = 0; number * all.block < all.images; number++) {
      const data = await block("images", number);
      if (mine !== drawing) return;
      data.names.forEach((name, at) => {
        if (!name.toLowerCase().includes(wanted)) return;
        count++;
        if (found.length < MOST_FOUND) found.push([number * all.block + at, name]);
      });
    }
    const list = make("ul", { class: "names" }, ...found.map(([image, name]) => {
      const cluster = clusterOf(image);
      return make("li", {}, thumb(image), make("div", {}, name, make("small", {}, make("a", { href: "#cluster=" + cluster }, "prototype " + cluster))));
    }));
    const more = count > found.length ? ", the first " + found.length + " of them here" : "";
    show(make("p", { class: "muted", role: "status" }, plural(count, "image") + " with “" + text + "” in the name" + more), list);
  }

  // ---- One image

  async function open(image) {
    const data = await about(image);
    const cluster = clusterOf(image);
    const facts = make("dl", { class: "facts" });
    const fact = (name, ...value) => facts.append(make("dt", {}, name), make("dd", {}, ...value));
    fact("File", data.href ? make("a", { href: data.href, target: "_blank", rel: "noopener" }, data.name) : data.name);
    if (data.root) fact("In", data.root);
    if (data.className !== null) fact("Class", data.className);
    fact("Cluster", make("a", { href: "#cluster=" + cluster, onclick: () => element("image").close() }, "prototype " + cluster), ", " + describe(cluster));
    fact("Similarity", data.similarity.toFixed(4) + " to the prototype");
    const parts = [make("div", { class: "pair" }, thumb(image, true), facts)];
    if (all.neighbours) {
      const near = (await block("neighbours", blockOf(image)))[image % all.block];
      parts.push(make("h3", {}, "Nearest images"), make("div", { class: "grid", id: "nearest" }, ...near.map((other) => thumb(other))));
    }
    element("detail").replaceChildren(...parts);
    if (!element("image").open) element("image").showModal();
    element("image").scrollTo(0, 0);
  }

  // ---- Addresses: #page=N, #cluster=N&page=N, #find=TEXT

  function draw() {
    drawing++;
    const address = new URLSearchParams(location.hash.slice(1));
    const page = Math.max(0, parseInt(address.get("page") ?? "0", 10) || 0);
    if (address.has("find")) {
      element("search").value = address.get("find");
      showFound(address.get("find")).catch(report);
    } else {
      element("search").value = "";
      if (address.has("cluster")) showCluster(parseInt(address.get("cluster"), 10), page);
      else showClusters(page);
    }
  }

  function begin() {
    const empty = all.clusters.filter((cluster) => cluster[1] === 0).length;
    document.title = all.title + ": clusters";
    element("title").textContent = all.title;
    element("summary").textContent = plural(all.images, "image") + " · " + plural(all.clusters.length, "prototype") + " · " + empty.toLocaleString("en") +
      " empty · " + plural(all.duplicates.length, "pair") + " nearly the same";
    let waiting;
    element("search").addEventListener("input", () => {
      clearTimeout(waiting);
      waiting = setTimeout(() => {
        const text = element("search").value.trim();
        history.replaceState(null, "", text ? "#" + new URLSearchParams({ find: text }) : "#");
        draw();
      }, 200);
    });
    element("tools").addEventListener("submit", (event) => event.preventDefault());
    for (const id of ["filter", "order"]) {
      element(id).addEventListener("change", () => { history.replaceState(null, "", "#"); draw(); });
    }
    element("close").addEventListener("click", () => element("image").close());
    element("image").addEventListener("click", (event) => { if (event.target === element("image")) element("image").close(); });
    window.addEventListener("hashchange", draw);
    draw();
  }

  return {
    clusters(data) { all = data; begin(); },
    images(number, data) { arrived.images.set(number, data); },
    neighbours(number, data) { arrived.neighbours.set(number, data); },
  };
})();
