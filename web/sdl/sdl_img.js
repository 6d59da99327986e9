/**
 * `<sdl-img src="photo.sdl" alt="...">`: an .sdl picture where an `<img>` would stand.
 *
 * Attributes: `src`, `alt`, `pack` (another model pack, a zip or a folder), `width` and `height` as of an `<img>`. Events:
 * `header` when the size is known, then `load`, whose `detail` has `ms` and `bytes`, or `error`, whose `detail` is a
 * SdlError. The element takes its size from the file's header, the first
 * few bytes that arrive, so nothing moves when the picture comes; it is painted from top to bottom; what is refused is
 * said in its place.
 */

import { decodeTo } from "./client.js";

const STYLE = `
  :host { display: inline-block; position: relative; max-width: 100%; overflow: hidden; vertical-align: bottom; }
  :host([hidden]) { display: none; }
  canvas { display: block; width: 100%; height: 100%; }
  .waiting { position: absolute; inset: 0; pointer-events: none;
    background: linear-gradient(100deg, #8881 30%, #8884 50%, #8881 70%) 0 / 300% 100%; animation: sweep 1.6s linear infinite; }
  .bar { position: absolute; left: 0; bottom: 0; height: 3px; width: 0; background: currentColor; opacity: .7; transition: width .2s; }
  .error { display: block; box-sizing: border-box; padding: .75em 1em; min-width: 12em; font: 14px/1.4 system-ui, sans-serif;
    color: #8a1c1c; background: #fdecec; border: 1px solid #e5b5b5; border-radius: 4px; overflow-wrap: anywhere; }
  @keyframes sweep { from { background-position: 100% 0; } to { background-position: -50% 0; } }
  @media (prefers-reduced-motion: reduce) { .waiting { animation: none; } }
`;

/** Workers load this module too, and have no elements. */
const Element = globalThis.HTMLElement ?? Object;

export class SdlImage extends Element {
  static observedAttributes = ["src", "pack", "alt", "width", "height"];

  /** Whether the picture is painted whole. */
  complete = false;
  /** The picture's own size in pixels; 0 before it is known. */
  naturalWidth = 0;
  naturalHeight = 0;

  #root = this.attachShadow({ mode: "open" });
  #internals = this.attachInternals();
  #canvas = document.createElement("canvas");
  #loading = null;
  #source = null;

  constructor() {
    super();
    const style = document.createElement("style");
    style.textContent = STYLE;
    this.#root.append(style);
    this.#internals.role = "img";
  }

  get src() {
    return this.getAttribute("src") ?? "";
  }
  set src(value) {
    this.setAttribute("src", value);
  }

  /** The canvas that holds the pixels. */
  get canvas() {
    return this.#canvas;
  }

  /** Shows a file that has no address, such as one that was dropped. @param {Blob} blob */
  show(blob) {
    this.#source = blob;
    return this.#load();
  }

  connectedCallback() {
    this.#load();
  }

  disconnectedCallback() {
    this.#loading?.abort();
  }

  attributeChangedCallback(name, before, after) {
    if (before === after) return;
    if (name === "alt") this.#internals.ariaLabel = after;
    else if (name === "width" || name === "height") this.#resize();
    else {
      if (name === "src") this.#source = null;
      if (this.isConnected) this.#load();
    }
  }

  async #load() {
    this.#loading?.abort();
    const source = this.#source ?? this.src;
    if (!source) return;
    const loading = (this.#loading = new AbortController());
    this.complete = false;
    const waiting = part("div", "waiting");
    const bar = part("div", "bar");
    this.#canvas = part("canvas", "picture");
    this.#show(this.#canvas, waiting, bar);
    this.#internals.ariaBusy = "true";
    try {
      const result = await decodeTo(this.#canvas, source, {
        pack: this.getAttribute("pack") ?? undefined,
        signal: loading.signal,
        onHeader: ({ widthPx, heightPx }) => {
          this.naturalWidth = widthPx;
          this.naturalHeight = heightPx;
          this.#resize();
          this.dispatchEvent(new CustomEvent("header"));
        },
        onProgress: (done, total) => (bar.style.width = `${(100 * done) / total}%`),
        onStrip: ({ top, rows }) => (waiting.style.top = `${(100 * (top + rows)) / this.naturalHeight}%`),
      });
      this.complete = true;
      this.#show(this.#canvas);
      this.dispatchEvent(new CustomEvent("load", { detail: result }));
    } catch (error) {
      if (loading.signal.aborted) return;
      const text = part("span", "error");
      text.setAttribute("role", "alert");
      const alt = this.getAttribute("alt");
      text.textContent = `${alt ? `${alt}: ` : ""}${error.name}: ${error.message}`;
      this.style.aspectRatio = this.style.width = "";
      this.#show(text);
      this.dispatchEvent(new CustomEvent("error", { detail: error }));
    } finally {
      if (this.#loading === loading) this.#internals.ariaBusy = "false";
    }
  }

  #show(...parts) {
    this.#root.replaceChildren(this.#root.firstChild, ...parts);
  }

  /** As of an `<img>`: the attributes if there are any, else the picture's own size; its shape in any case. */
  #resize() {
    const given = (name) => (/^\d+$/.test(this.getAttribute(name) ?? "") ? Number(this.getAttribute(name)) : 0);
    const [width, height] = [given("width"), given("height")];
    const [naturalWidth, naturalHeight] = [this.naturalWidth || width, this.naturalHeight || height];
    if (!naturalWidth || !naturalHeight) return;
    const ratio = width && height ? width / height : naturalWidth / naturalHeight;
    this.style.aspectRatio = String(ratio);
    this.style.width = `${width || (height ? height * ratio : naturalWidth)}px`;
  }
}

function part(tag, name) {
  const element = document.createElement(tag);
  element.className = name;
  element.setAttribute("part", name);
  return element;
}

/** Gives `<sdl-img>` its meaning on this page. */
export function defineElement() {
  if (!customElements.get("sdl-img")) customElements.define("sdl-img", SdlImage);
}
