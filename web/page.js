/**
 * The page: drop an .sdl file and it is painted; drop a photograph and it is encoded, or, with the .sdl file made from it,
 * flipped against that; save either.
 */

import { encode } from "./sdl/sdl.js";

const find = (id) => document.getElementById(id);
const stage = find("stage");
const picture = find("picture");
const original = find("original");
const note = find("note");

/** The pack that encodes: beside this page. */
const ENCODER = new URL("encoder.zip", import.meta.url);

let name = "";
let photograph = null;
let file = null;

/** Files that were dropped or chosen: the .sdl among them is the picture, the other one the original. */
async function take(files) {
  note.textContent = "";
  const isSdl = (one) => /\.sdl$/i.test(one.name);
  const sdl = files.find(isSdl);
  const other = files.find((one) => !isSdl(one));
  if (sdl) show(sdl);
  if (other && (await showOriginal(other)) && !sdl) await encodeIt();
}

function show(sdl, isOurs = false) {
  file = sdl;
  name = sdl.name.replace(/\.sdl$/i, "");
  find("invitation").hidden = true;
  stage.classList.remove("empty");
  picture.hidden = false;
  picture.setAttribute("alt", sdl.name);
  find("bar").hidden = false;
  find("encoding").hidden = !photograph;
  find("keep").hidden = !isOurs;
  find("save").disabled = find("flip").disabled = true;
  facts({ File: sdl.name, Bytes: sdl.size.toLocaleString("en") });
  flipTo(false);
  picture.classList.remove("painted");
  picture.show(sdl);
}

/** Encodes the photograph that was dropped last, and shows what comes of it. */
async function encodeIt() {
  if (!find("quality").reportValidity()) return;
  const encoded = photograph;
  find("encode").disabled = true;
  note.textContent = `${encoded.name} is being encoded.`;
  if (picture.hidden) {
    find("invitation").hidden = true;
    stage.classList.remove("empty");
    original.hidden = find("bar").hidden = false;
    fit();
  }
  try {
    const onProgress = (done, total) => (note.textContent = `${encoded.name} is being encoded: ${Math.round((100 * done) / total)} %`);
    const { file: blob } = await encode(encoded, { pack: ENCODER, quality: find("quality").valueAsNumber, onProgress });
    const sdl = new File([blob], encoded.name.replace(/(\.\w+)?$/, ".sdl"), { type: blob.type });
    if (encoded === photograph) show(sdl, true);
  } catch (error) {
    note.textContent = `${error.name}: ${error.message}`;
  } finally {
    find("encode").disabled = false;
  }
}

picture.addEventListener("header", fit);
picture.addEventListener("load", ({ detail: { ms, bytes } }) => {
  const { naturalWidth: width, naturalHeight: height } = picture;
  facts({
    File: `${name}.sdl`,
    Size: `${width} × ${height}`,
    Bytes: bytes.toLocaleString("en"),
    "Bits a pixel": ((8 * bytes) / (width * height)).toFixed(3),
    Time: `${(ms / 1000).toFixed(2)} s`,
  });
  find("save").disabled = false;
  picture.classList.add("painted"); // only now is what shows through transparent
  checkOriginal();
});

/** @returns {Promise<boolean>} whether it is a picture */
async function showOriginal(other) {
  let bitmap;
  try {
    bitmap = await createImageBitmap(other);
  } catch {
    note.textContent = `${other.name} is not a picture that this browser reads.`;
    return false;
  }
  photograph = other;
  original.width = bitmap.width;
  original.height = bitmap.height;
  original.getContext("2d").drawImage(bitmap, 0, 0);
  original.dataset.name = other.name;
  find("encoding").hidden = false;
  checkOriginal();
  return true;
}

/** Pictures of different sizes cannot be flipped. */
function checkOriginal() {
  const { name: of } = original.dataset;
  if (!picture.complete) return;
  if (!of) {
    note.textContent = "Open the photograph it was made from as well to flip between the two.";
    return;
  }
  const fits = original.width === picture.naturalWidth && original.height === picture.naturalHeight;
  find("flip").disabled = !fits;
  if (fits) note.textContent = `The space bar or the button flips to ${of} and back.`;
  else note.textContent = `${of} is ${original.width} × ${original.height}, not the size of the .sdl picture.`;
}

function flipTo(showsOriginal) {
  original.hidden = !showsOriginal;
  picture.hidden = showsOriginal;
  find("flip").setAttribute("aria-pressed", String(showsOriginal));
  find("flip").textContent = showsOriginal ? "Show .sdl" : "Show original";
  find("which").hidden = find("flip").disabled;
  find("which").textContent = showsOriginal ? "original" : ".sdl";
  fit();
}

/** The largest size, at most the picture's own, that the stage has room for. */
function fit() {
  const sizes = [[picture, picture.naturalWidth, picture.naturalHeight], [original, original.width, original.height]];
  for (const [element, width, height] of sizes) {
    const widthPx = Math.min(width, stage.clientWidth, (stage.clientHeight * width) / height);
    if (widthPx) element.style.width = `${Math.floor(widthPx)}px`;
  }
}

function facts(entries) {
  const rows = Object.entries(entries).map(([term, value]) => {
    const row = document.createElement("div");
    row.append(Object.assign(document.createElement("dt"), { textContent: term }), Object.assign(document.createElement("dd"), { textContent: value }));
    return row;
  });
  find("facts").replaceChildren(...rows);
}

function save() {
  picture.canvas.toBlob((blob) => {
    if (blob) download(blob, `${name}.png`);
    else note.textContent = "This browser cannot write a PNG of this size.";
  }, "image/png");
}

function download(blob, as) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = as;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}

find("chooser").addEventListener("change", (event) => take([...event.target.files]));
find("another").addEventListener("click", () => find("chooser").click());
find("save").addEventListener("click", save);
find("keep").addEventListener("click", () => download(file, file.name));
find("encode").addEventListener("click", encodeIt);
find("flip").addEventListener("click", () => flipTo(original.hidden));
document.addEventListener("keydown", (event) => {
  if (event.key !== " " || find("flip").disabled || /^(BUTTON|INPUT)$/.test(event.target.tagName)) return;
  event.preventDefault();
  flipTo(original.hidden);
});
new ResizeObserver(fit).observe(stage);
stage.classList.add("empty");
for (const kind of ["dragenter", "dragover", "dragleave", "drop"])
  window.addEventListener(kind, (event) => {
    event.preventDefault();
    stage.classList.toggle("over", kind === "dragenter" || kind === "dragover");
    if (kind === "drop") take([...event.dataTransfer.files]);
  });
