/**
 * `node site.mjs [--pack FOLDER] [--out FOLDER] [--serve PORT]`: puts the page together, one folder that any web server
 * can serve, and serves it on localhost. Plain copies; nothing is built.
 */

import { copyFileSync, cpSync, createReadStream, mkdirSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { createServer } from "node:http";
import { extname, join, normalize, resolve } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";
import { parseArgs } from "node:util";

const HERE = fileURLToPath(new URL(".", import.meta.url));
const ENGINE = ["ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm"];
const TYPES = {
  ".html": "text/html; charset=utf-8", ".js": "text/javascript", ".mjs": "text/javascript", ".css": "text/css",
  ".wasm": "application/wasm", ".json": "application/json", ".sdl": "image/x-sdl", ".png": "image/png", ".webp": "image/webp",
};

/** What a decoder needs of a pack: the manifest, the prior, and one decoder, the quicker one where there are two. */
export function copyPack(pack, out) {
  const manifest = JSON.parse(readFileSync(join(pack, "manifest.json"), "utf8"));
  const decoder = ["decoder.int8.onnx", "decoder.onnx"].find((name) => manifest.files[name]);
  const names = [decoder, "prior.npz"];
  manifest.files = Object.fromEntries(names.map((name) => [name, manifest.files[name]]));
  mkdirSync(out, { recursive: true });
  for (const name of names) copyFileSync(join(pack, name), join(out, name));
  writeFileSync(join(out, "manifest.json"), `${JSON.stringify(manifest, null, 2)}\n`);
}

export function assemble(pack, out) {
  rmSync(out, { recursive: true, force: true });
  mkdirSync(out, { recursive: true });
  cpSync(join(HERE, "sdl"), join(out, "sdl"), { recursive: true });
  for (const name of ["index.html", "page.js", "page.css"]) copyFileSync(join(HERE, name), join(out, name));
  mkdirSync(join(out, "sdl", "ort"));
  for (const name of ENGINE) copyFileSync(join(HERE, "node_modules", "onnxruntime-web", "dist", name), join(out, "sdl", "ort", name));
  copyPack(pack, join(out, "sdl", "pack"));
}

/** Serves folders on localhost: `mounts` maps the beginning of a path to a folder. @returns {Promise<number>} the port */
export async function serve(mounts, port = 0) {
  const server = createServer((request, response) => {
    const path = normalize(decodeURIComponent(new URL(request.url, "http://localhost").pathname)).replace(/\/$/, "/index.html");
    const prefix = Object.keys(mounts).find((start) => path.startsWith(start));
    const file = prefix && join(mounts[prefix], path.slice(prefix.length));
    const size = file && statSync(file, { throwIfNoEntry: false })?.isFile() && statSync(file).size;
    if (typeof size !== "number") {
      response.writeHead(404).end();
      return;
    }
    response.writeHead(200, { "content-type": TYPES[extname(file)] ?? "application/octet-stream", "content-length": size });
    createReadStream(file).pipe(response);
  });
  await new Promise((listening) => server.listen(port, "127.0.0.1", listening));
  server.unref();
  return server.address().port;
}

if (import.meta.url === pathToFileURL(process.argv[1]).href) {
  const { values } = parseArgs({
    options: { pack: { type: "string" }, out: { type: "string" }, serve: { type: "string" } },
  });
  const out = resolve(values.out ?? join(HERE, "site"));
  assemble(resolve(values.pack ?? join(HERE, "..", "models", "tiny")), out);
  console.log(`${out} is complete`);
  if (values.serve) {
    console.log(`http://localhost:${await serve({ "/": out }, Number(values.serve))}/   (Ctrl-C ends)`);
    setInterval(() => {}, 2 ** 30);
  }
}
