/**
 * Every `<img src="....sdl">` of the page, and every one that comes later, shows its picture. They stay `<img>` elements;
 * styles and scripts of the page find what they expect.
 */

import { decodeTo } from "./client.js";

const SUFFIX = /\.sdl(?:[?#]|$)/i;
/** Image -> its `src` as this script knows or set it. Any other is the page's own. */
const known = new WeakMap();

/** @param {HTMLImageElement} image */
async function upgrade(image) {
  const source = image.getAttribute("src");
  if (known.get(image) === source) return;
  known.set(image, source);
  if (!SUFFIX.test(source ?? "")) return;
  image.dataset.sdl = source;
  const canvas = document.createElement("canvas");
  let shown = source;
  const isOurs = () => image.getAttribute("src") === shown; // else the page shows another file by now
  const show = (url) => {
    known.set(image, (shown = url));
    image.src = url;
  };
  try {
    await decodeTo(canvas, source, {
      pack: image.dataset.pack,
      onHeader({ widthPx, heightPx }) {
        // An empty picture of the right size takes the place until the pixels come.
        const empty = `<svg xmlns="http://www.w3.org/2000/svg" width="${widthPx}" height="${heightPx}"/>`;
        if (isOurs()) show(`data:image/svg+xml,${encodeURIComponent(empty)}`);
      },
    });
    const blob = await new Promise((resolve) => canvas.toBlob(resolve));
    if (!isOurs()) return;
    const url = URL.createObjectURL(blob);
    image.addEventListener("load", () => URL.revokeObjectURL(url), { once: true });
    show(url);
  } catch (error) {
    if (!isOurs()) return;
    const words = `${error.name}: ${error.message}`;
    image.alt = `${image.alt} ${words}`.trim();
    image.title = words;
    image.removeAttribute("src");
  }
}

function upgradeIn(root) {
  if (root instanceof HTMLImageElement) upgrade(root);
  else if (root instanceof Element || root instanceof Document) root.querySelectorAll("img").forEach(upgrade);
}

/** Begins to watch this page. */
export function upgradeImages() {
  new MutationObserver((records) => {
    for (const { type, target, addedNodes } of records) {
      if (type === "attributes") upgradeIn(target);
      else addedNodes.forEach(upgradeIn);
    }
  }).observe(document, { subtree: true, childList: true, attributes: true, attributeFilter: ["src"] });
  upgradeIn(document);
}
