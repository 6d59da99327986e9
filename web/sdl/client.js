/**
 * The page's side of the worker: `decode` and `encode`; `<sdl-img>` and `upgradeImages` stand on it.
 */

/** Where the pack lies unless the caller says otherwise: beside this script, which is `sdl.js` (main.js). */
export const DEFAULT_PACK = new URL("./pack.zip", import.meta.url).href;
/** The name of the worker, by which the script knows that it runs there. */
export const WORKER = "sdl";

const jobs = new Map();
let worker;
let lastId = 0;

function startWorker() {
  worker = new Worker(import.meta.url, { type: "module", name: WORKER });
  worker.onmessage = ({ data }) => jobs.get(data.id)?.(data);
  worker.onerror = (event) => {
    event.preventDefault();
    worker = undefined;
    for (const [id, answer] of jobs) answer({ id, kind: "error", name: "EngineError", message: `the worker failed: ${event.message ?? "it cannot be loaded"}` });
  };
}

/** What is refused; `name` is the error's name in every sdrt, such as "CorruptError". */
export class SdlError extends Error {
  constructor(name, message) {
    super(message);
    this.name = name;
  }
}

/**
 * Decodes a file in the worker.
 * @param {string | URL | Blob | ArrayBuffer} source  an address, or the file itself
 * @param {object} [options]
 * @param {string | URL} [options.pack]      the model pack, a zip or a folder
 * @param {number} [options.maxPixels]
 * @param {number} [options.tilePx]          side of the tiles of large pictures
 * @param {AbortSignal} [options.signal]
 * @param {(header: {widthPx: number, heightPx: number}) => void} [options.onHeader]
 * @param {(done: number, total: number) => void} [options.onProgress]  tiles
 * @param {(strip: {top: number, rows: number, image: ImageData}) => void} [options.onStrip]  from top to bottom
 * @returns {Promise<{ms: number, bytes: number}>}  time in the worker, without fetching the file; its size
 * @throws {SdlError}
 */
export async function decode(source, options = {}) {
  const { pack = DEFAULT_PACK, maxPixels, tilePx, signal, onHeader, onProgress, onStrip } = options;
  const job = { id: ++lastId, pack: new URL(pack, document.baseURI).href, maxPixels, tilePx };
  if (source instanceof Blob) job.bytes = await source.arrayBuffer();
  else if (source instanceof ArrayBuffer) job.bytes = source.slice(0);
  else job.url = new URL(source, document.baseURI).href;
  let widthPx = 0;
  return ask(job, signal, (answer) => {
    if (answer.kind === "header") {
      widthPx = answer.widthPx;
      onHeader?.(answer);
    } else if (answer.kind === "strip") {
      const image = new ImageData(new Uint8ClampedArray(answer.pixels), widthPx, answer.rows);
      onStrip?.({ top: answer.top, rows: answer.rows, image });
    } else if (answer.kind === "progress") onProgress?.(answer.done, answer.total);
    else return { ms: answer.ms, bytes: answer.bytes };
  });
}

/**
 * Encodes a picture in the worker. The pack needs an encoder, which the default one has not.
 * @param {Blob | ImageData} picture  a file that the browser reads, or pixels
 * @param {object} options
 * @param {string | URL} options.pack
 * @param {number} [options.quality]      0 to 100
 * @param {number} [options.tilePx]       as of `decode`
 * @param {AbortSignal} [options.signal]
 * @param {(done: number, total: number) => void} [options.onProgress]  tiles
 * @returns {Promise<{ms: number, widthPx: number, heightPx: number, file: Blob}>}  time in the worker; the .sdl file
 * @throws {SdlError}
 */
export async function encode(picture, { pack, quality = 50, tilePx, signal, onProgress }) {
  const job = { id: ++lastId, pack: new URL(pack, document.baseURI).href, picture, quality, tilePx };
  return ask(job, signal, ({ kind, done, total, ms, widthPx, heightPx, file }) => {
    if (kind !== "progress") return { ms, widthPx, heightPx, file: new Blob([file], { type: "image/x-sdl" }) };
    onProgress?.(done, total);
  });
}

/** Sends a job to the worker. `take` is given its answers; what it gives for the last one is the result. */
async function ask(job, signal, take) {
  signal?.throwIfAborted();
  if (!worker) startWorker();
  let abort;
  try {
    return await new Promise((resolve, reject) => {
      abort = () => {
        worker?.postMessage({ id: job.id, cancel: true });
        reject(signal.reason);
      };
      signal?.addEventListener("abort", abort);
      jobs.set(job.id, (answer) => {
        if (answer.kind === "error") {
          reject(new SdlError(answer.name, answer.message));
          return;
        }
        try {
          const result = take(answer);
          if (answer.kind === "done") resolve(result);
        } catch (error) {
          worker?.postMessage({ id: job.id, cancel: true }); // the caller cannot take what comes
          reject(error);
        }
      });
      worker.postMessage(job, job.bytes ? [job.bytes] : []);
    });
  } finally {
    jobs.delete(job.id);
    signal?.removeEventListener("abort", abort); // it may outlive many jobs
  }
}

/**
 * Decodes a file onto a canvas, strip by strip; the canvas gets the picture's size as soon as it is known.
 * @param {HTMLCanvasElement} canvas
 * @param {string | URL | Blob | ArrayBuffer} source
 * @param {object} [options]  as of `decode`
 */
export async function decodeTo(canvas, source, options = {}) {
  let context;
  return decode(source, {
    ...options,
    onHeader(header) {
      canvas.width = header.widthPx;
      canvas.height = header.heightPx;
      context = canvas.getContext("2d");
      options.onHeader?.(header);
    },
    onStrip(strip) {
      if (!context) throw new SdlError("LimitError", "the browser has no canvas of this size");
      context.putImageData(strip.image, 0, strip.top);
      options.onStrip?.(strip);
    },
  });
}
