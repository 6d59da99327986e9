/**
 * The decoder graph, run by onnxruntime-web: the only module that knows it. Its WebAssembly lies beside the script.
 */

import { EngineError } from "./errors.js";

const WASM = new URL("./ort-wasm-simd-threaded.wasm", import.meta.url).href;
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

/** A session of one graph. */
export class Engine {
  /** @param {Uint8Array} graph  ONNX @returns {Promise<Engine>} @throws {EngineError} */
  static async open(graph) {
    try {
      loading ??= loadEngine();
      const ort = await loading;
      const session = await ort.InferenceSession.create(graph, { executionProviders: ["wasm"], graphOptimizationLevel: "all" });
      return new Engine(ort, session);
    } catch (error) {
      loading = undefined;
      throw new EngineError(`onnxruntime-web cannot open the decoder: ${error.message}`);
    }
  }

  constructor(ort, session) {
    this.ort = ort;
    this.session = session;
  }

  /**
   * @param {Float32Array} latents  (1, channels, rows, columns)
   * @param {number[]} shape
   * @returns {Promise<{data: Float32Array | Uint8Array, dims: readonly number[]}>}
   * @throws {EngineError}
   */
  async run(latents, shape) {
    try {
      const input = new this.ort.Tensor("float32", latents, shape);
      const output = await this.session.run({ [this.session.inputNames[0]]: input });
      return output[this.session.outputNames[0]];
    } catch (error) {
      throw new EngineError(`onnxruntime-web failed: ${error.message}`);
    }
  }
}
