/**
 * The graphs of a pack, run by onnxruntime-web: the only module that knows it. Its WebAssembly lies beside the script.
 */

import { EngineError } from "./errors.js";

const WASM = new URL("./ort-wasm-simd-threaded.wasm", import.meta.url).href;
const sessions = new WeakMap();
let loading;

/** Makes this thread one of the engine's own; onnxruntime-web starts them under a name of its choice. */
export function helpEngine() {
  return import("onnxruntime-web/wasm");
}

async function loadEngine() {
  const ort = await import("onnxruntime-web/wasm");
  ort.env.wasm.wasmPaths = { wasm: WASM };
  // Threads need memory that is shared, which browsers grant to isolated pages only.
  ort.env.wasm.numThreads = globalThis.crossOriginIsolated ? Math.min(navigator.hardwareConcurrency, 8) : 1;
  ort.env.logLevel = "error";
  return ort;
}

/**
 * The session of a pack's graph, opened once.
 * @param {import("./pack.js").Pack} pack
 * @param {"encoder" | "decoder"} half
 * @returns {Promise<Engine>}
 * @throws {ModelError | EngineError}
 */
export function engineOf(pack, half) {
  if (!sessions.has(pack)) sessions.set(pack, {});
  const opened = sessions.get(pack);
  opened[half] ??= pack.graph(half).then((graph) => Engine.open(graph));
  opened[half].catch(() => delete opened[half]); // what failed is tried again
  return opened[half];
}

/** A session of one graph. */
class Engine {
  /** @param {Uint8Array} graph  ONNX @returns {Promise<Engine>} @throws {EngineError} */
  static async open(graph) {
    try {
      loading ??= loadEngine();
      const ort = await loading;
      const session = await ort.InferenceSession.create(graph, { executionProviders: ["wasm"], graphOptimizationLevel: "all" });
      return new Engine(ort, session);
    } catch (error) {
      loading = undefined;
      throw new EngineError(`onnxruntime-web cannot open the graph: ${error.message}`);
    }
  }

  constructor(ort, session) {
    this.ort = ort;
    this.session = session;
  }

  /**
   * @param {Float32Array} data
   * @param {number[]} shape  (1, channels, rows, columns)
   * @returns {Promise<{data: Float32Array | Uint8Array, dims: readonly number[]}>}
   * @throws {EngineError}
   */
  async run(data, shape) {
    try {
      const input = new this.ort.Tensor("float32", data, shape);
      const output = await this.session.run({ [this.session.inputNames[0]]: input });
      return output[this.session.outputNames[0]];
    } catch (error) {
      throw new EngineError(`onnxruntime-web failed: ${error.message}`);
    }
  }
}
