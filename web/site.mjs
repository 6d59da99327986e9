/**
 * `node site.mjs [--pack FOLDER] [--out FOLDER] [--serve PORT]`: puts the page together, one folder that any web server
 * can serve, and serves it on localhost.
 *
 * The folder `sdl/` in it is what a site needs, three files: `sdl.js`, all modules of `sdl/` here and onnxruntime-web's
 * script, joined and minified by esbuild; onnxruntime-web's WebAssembly as it is; and `pack.zip`, a decoder-only pack
 * whose graph `graph.mjs` has rewritten.
 * The page itself has the pack's encoder as well, in `encoder.zip`.
 */

import { createHash } from "node:crypto";
import { copyFileSync, createReadStream, mkdirSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { createServer } from "node:http";
import { extname, join, normalize, resolve } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";
import { parseArgs } from "node:util";
import { deflateRawSync } from "node:zlib";

import { build } from "esbuild";

import { forWeb } from "./graph.mjs";
import { crc32 } from "./sdl/container.js";

const HERE = fileURLToPath(new URL(".", import.meta.url));
const WASM = "ort-wasm-simd-threaded.wasm";
const TYPES = {
  ".html": "text/html; charset=utf-8", ".js": "text/javascript", ".mjs": "text/javascript", ".css": "text/css",
  ".wasm": "application/wasm", ".json": "application/json", ".sdl": "image/x-sdl", ".png": "image/png", ".webp": "image/webp",
  ".zip": "application/zip",
};

export async function assemble(pack, out) {
  rmSync(out, { recursive: true, force: true });
  mkdirSync(join(out, "sdl"), { recursive: true });
  for (const name of ["index.html", "page.js", "page.css"]) copyFileSync(join(HERE, name), join(out, name));
  await build({
    entryPoints: [join(HERE, "sdl", "main.js")],
    outfile: join(out, "sdl", "sdl.js"),
    bundle: true,
    minify: true,
    format: "esm",
    target: "es2022",
    legalComments: "inline", // onnxruntime-web's license
    banner: { js: "/* sdrt's web/sdl, Apache-2.0, and onnxruntime-web */" },
  });
  copyFileSync(join(HERE, "node_modules", "onnxruntime-web", "dist", WASM), join(out, "sdl", WASM));
  writeFileSync(join(out, "sdl", "pack.zip"), packZip(pack, "decoder"));
  writeFileSync(join(out, "encoder.zip"), packZip(pack, "encoder"));
}

/** What half of a pack needs: the manifest, the priors, and its graph, the quicker one where there are two. */
function packZip(pack, half) {
  const manifest = JSON.parse(readFileSync(join(pack, "manifest.json"), "utf8"));
  const graph = [`${half}.int8.onnx`, `${half}.onnx`].find((name) => manifest.files[name]);
  const names = Object.keys(manifest.files).filter((name) => name === graph || /^prior(\..+)?\.npz$/.test(name));
  manifest.files = Object.fromEntries(names.map((name) => [name, manifest.files[name]]));
  const contents = new Map(names.map((name) => [name, readFileSync(join(pack, name))]));
  if (half === "decoder" && graph) {
    const content = contents.get(graph);
    if (sha256(content) !== manifest.files[graph].sha256) throw new Error(`${join(pack, graph)} is not the manifest's`);
    const rewritten = forWeb(content);
    contents.set(graph, rewritten);
    manifest.files[graph] = { bytes: rewritten.length, sha256: sha256(rewritten) };
  }
  return zip([["manifest.json", Buffer.from(`${JSON.stringify(manifest, null, 2)}\n`)], ...contents]);
}

const sha256 = (content) => createHash("sha256").update(content).digest("hex");

/** A zip archive, deflated, because few servers compress zips. @param {[string, Buffer][]} members */
function zip(members) {
  const files = [];
  const directory = [];
  let at = 0;
  for (const [name, content] of members) {
    const packed = deflateRawSync(content, { level: 9 });
    const fields = Buffer.alloc(26); // of both headers: version, flags, method, time, date, CRC, sizes, length of the name
    fields.writeUInt16LE(20, 0);
    fields.writeUInt16LE(8, 4);
    fields.writeUInt16LE(0x21, 8); // 1 January 1980: the same pack gives the same bytes
    fields.writeUInt32LE(crc32(content), 10);
    fields.writeUInt32LE(packed.length, 14);
    fields.writeUInt32LE(content.length, 18);
    fields.writeUInt16LE(name.length, 22);
    const place = Buffer.alloc(14);
    place.writeUInt32LE(at, 10);
    files.push(Buffer.from("PK\x03\x04"), fields, Buffer.from(name), packed);
    directory.push(Buffer.from("PK\x01\x02\x14\x00"), fields, place, Buffer.from(name));
    at += 30 + name.length + packed.length;
  }
  const listed = Buffer.concat(directory);
  const end = Buffer.alloc(18);
  end.writeUInt16LE(members.length, 4);
  end.writeUInt16LE(members.length, 6);
  end.writeUInt32LE(listed.length, 8);
  end.writeUInt32LE(at, 12);
  return Buffer.concat([...files, listed, Buffer.from("PK\x05\x06"), end]);
}

/** What grants a page threads. */
const ISOLATED = { "cross-origin-opener-policy": "same-origin", "cross-origin-embedder-policy": "require-corp" };

/** The file that an address means, or nothing. @throws {TypeError | URIError} where it is not a valid address */
function fileAt(mounts, address) {
  const path = normalize(decodeURIComponent(new URL(address, "http://localhost").pathname)).replace(/\/$/, "/index.html");
  const prefix = Object.keys(mounts).find((start) => path.startsWith(start));
  return prefix && join(mounts[prefix], path.slice(prefix.length));
}

/**
 * Serves folders on localhost.
 * @param {Record<string, string>} mounts  the beginning of a path -> a folder
 * @returns {Promise<string>} the address, without a slash at its end
 */
export async function serve(mounts, { port = 0, isolated = false } = {}) {
  const server = createServer((request, response) => {
    let file;
    let stat;
    try {
      file = fileAt(mounts, request.url);
      stat = file && statSync(file, { throwIfNoEntry: false });
    } catch { // no address, or one that no file can have
      response.writeHead(400).end();
      return;
    }
    if (!stat?.isFile()) {
      response.writeHead(404).end();
      return;
    }
    const type = TYPES[extname(file)] ?? "application/octet-stream";
    response.writeHead(200, { "content-type": type, "content-length": stat.size, ...(isolated ? ISOLATED : {}) });
    createReadStream(file).on("error", () => response.destroy()).pipe(response);
  });
  await new Promise((listening) => server.listen(port, "127.0.0.1", listening));
  server.unref();
  return `http://localhost:${server.address().port}`;
}

if (import.meta.url === pathToFileURL(process.argv[1]).href) {
  const { values } = parseArgs({
    options: { pack: { type: "string" }, out: { type: "string" }, serve: { type: "string" } },
  });
  const out = resolve(values.out ?? join(HERE, "site"));
  await assemble(resolve(values.pack ?? join(HERE, "..", "models", "tiny")), out);
  console.log(`${out} is complete`);
  if (values.serve) {
    console.log(`${await serve({ "/": out }, { port: Number(values.serve), isolated: true })}/   (Ctrl-C ends)`);
    setInterval(() => {}, 2 ** 30);
  }
}
