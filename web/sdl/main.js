/**
 * The script `sdl.js`, into which site.mjs joins all modules: on a page it gives `<sdl-img>` and `<img src="x.sdl">` their
 * meaning, and exports `decode`, `decodeTo` and `encode`. Its workers load the same script.
 */

import { WORKER } from "./client.js";
import { helpEngine } from "./engine.js";
import { defineElement } from "./sdl_img.js";
import { upgradeImages } from "./upgrade_images.js";
import { listen } from "./worker.js";

export { SdlError, decode, decodeTo, encode } from "./client.js";

if (globalThis.document) {
  defineElement();
  upgradeImages();
} else if (self.name === WORKER) listen();
else helpEngine();
