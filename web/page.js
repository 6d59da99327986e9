/**
 * The page: drop an .sdl file and it is painted; drop the photograph too and flip between them; save as PNG.
 */

import "./sdl/sdl.js";

const find = (id) => document.getElementById(id);
const stage = find("stage");
const picture = find("picture");
const original = find("original");
const note = find("note");

let name = "";

/** Files that were dropped or chosen: the .sdl among them is the picture, the other one the original. */
async function take(files) {
  note.textContent = "";
  const isSdl = (file) => /\.sdl$/i.test(file.name);
  const sdl = files.find(isSdl);
  const photograph = files.find((file) => !isSdl(file));
  if (sdl) show(sdl);
  if (photograph) await showOriginal(photograph);
}

function show(file) {
  name = file.name.replace(/\.sdl$/i, "");
  find("invitation").hidden = true;
  stage.classList.remove("empty");
  picture.hidden = false;
  picture.setAttribute("alt", file.name);
  find("bar").hidden = false;
  find("save").disabled = find("flip").disabled = true;
  facts({ File: file.name, Bytes: file.size.toLocaleString("en") });
  flipTo(false);
  picture.classList.remove("painted");
  picture.show(file);
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

async function showOriginal(file) {
  let bitmap;
  try {
    bitmap = await createImageBitmap(file);
  } catch {
    note.textContent = `${file.name} is not a picture that this browser reads.`;
    return;
  }
  original.width = bitmap.width;
  original.height = bitmap.height;
  original.getContext("2d").drawImage(bitmap, 0, 0);
  original.dataset.name = file.name;
  if (picture.hidden) note.textContent = `${file.name} will be the original: now drop the .sdl file made from it.`;
  checkOriginal();
}

/** Pictures of different sizes cannot be flipped. */
function checkOriginal() {
  const { name: file } = original.dataset;
  if (!picture.complete) return;
  if (!file) {
    note.textContent = "Open the photograph it was made from as well to flip between the two.";
    return;
  }
  const fits = original.width === picture.naturalWidth && original.height === picture.naturalHeight;
  find("flip").disabled = !fits;
  if (fits) note.textContent = `The space bar or the button flips to ${file} and back.`;
  else note.textContent = `${file} is ${original.width} × ${original.height}, not the size of the .sdl picture.`;
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
  const { naturalWidth, naturalHeight } = picture;
  if (!naturalWidth) return;
  const widthPx = Math.min(naturalWidth, stage.clientWidth, (stage.clientHeight * naturalWidth) / naturalHeight);
  picture.style.width = original.style.width = `${Math.floor(widthPx)}px`;
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
    if (!blob) {
      note.textContent = "This browser cannot write a PNG of this size.";
      return;
    }
    const link = document.createElement("a");
    link.href = URL.createObjectURL(blob);
    link.download = `${name}.png`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
  }, "image/png");
}

find("chooser").addEventListener("change", (event) => take([...event.target.files]));
find("another").addEventListener("click", () => find("chooser").click());
find("save").addEventListener("click", save);
find("flip").addEventListener("click", () => flipTo(original.hidden));
document.addEventListener("keydown", (event) => {
  if (event.key !== " " || find("flip").disabled || event.target instanceof HTMLButtonElement) return;
  event.preventDefault();
  flipTo(original.hidden);
});
window.addEventListener("resize", fit);
stage.classList.add("empty");
for (const kind of ["dragenter", "dragover", "dragleave", "drop"])
  window.addEventListener(kind, (event) => {
    event.preventDefault();
    stage.classList.toggle("over", kind === "dragenter" || kind === "dragover");
    if (kind === "drop") take([...event.dataTransfer.files]);
  });
