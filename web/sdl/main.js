/**
 * The script `sdl.js`, into which site.mjs joins all modules: on a page it gives `<sdl-img>` and `<img src="x.sdl">` their
 * meaning, and exports `decode` and `decodeTo`. Its workers load the same script.
 */

import { WORKER } from "./client.js";
import { helpEngine } from "./engine.js";
import { defineElement } from "./sdl_img.js";
import { upgradeImages } from "./upgrade_images.js";
import { listen } from "./worker.js";

export { DecodeError, decode, decodeTo } from "./client.js";

if (globalThis.document) {
  defineElement();
  upgradeImages();
} else if (self.name === WORKER) listen();
else helpEngine();
