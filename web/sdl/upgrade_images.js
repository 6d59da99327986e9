/**
 * Every `<img src="....sdl">` of the page, and every one that comes later, shows its picture. They stay `<img>` elements;
 * styles and scripts of the page find what they expect.
 */

import { decodeTo } from "./client.js";

const SUFFIX = /\.sdl(?:[?#]|$)/i;
const upgraded = new WeakMap();

/** @param {HTMLImageElement} image */
async function upgrade(image) {
  const source = image.getAttribute("src");
  if (!SUFFIX.test(source ?? "") || upgraded.get(image) === source) return;
  upgraded.set(image, source);
  image.dataset.sdl = source;
  const canvas = document.createElement("canvas");
  try {
    await decodeTo(canvas, source, {
      pack: image.dataset.pack,
      onHeader({ widthPx, heightPx }) {
        // An empty picture of the right size takes the place until the pixels come.
        const empty = `<svg xmlns="http://www.w3.org/2000/svg" width="${widthPx}" height="${heightPx}"/>`;
        if (image.getAttribute("src") === source) image.src = `data:image/svg+xml,${encodeURIComponent(empty)}`;
      },
    });
    const blob = await new Promise((resolve) => canvas.toBlob(resolve));
    if (upgraded.get(image) !== source) return; // it shows another file by now
    const url = URL.createObjectURL(blob);
    image.addEventListener("load", () => URL.revokeObjectURL(url), { once: true });
    image.src = url;
  } catch (error) {
    if (upgraded.get(image) !== source) return;
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
