/**
 * The mirror of `BinaryDecoder`: step maps.
 */

import { evenContexts, learn } from "./binary_decoder.js";

export class BinaryEncoder {
  /** @param {number} contexts */
  constructor(contexts) {
    this.contexts = evenContexts(contexts);
    /** What has been put out: 8 bits each, and a ninth where a carry waits. */
    this.bytes = [];
    this.low = 0;
    this.range = 2 ** 32 - 1;
  }

  /** @param {number} context @param {number} bit  0 or 1 @returns {number} the same */
  bit(context, bit) {
    const own = this.contexts[context];
    const bound = (this.range >>> 16) * own.zero;
    this.low += bit ? bound : 0;
    this.range = bit ? this.range - bound : bound;
    learn(own, bit);
    for (; this.range < 2 ** 24; this.range *= 256) this.putOut();
    return bit;
  }

  putOut() {
    this.bytes.push(Math.floor(this.low / 2 ** 24));
    this.low = (this.low % 2 ** 24) * 256;
  }

  /** The lower end of the interval, without zeros at its end. @returns {Uint8Array} */
  finish() {
    for (let i = 0; i < 4; i++) this.putOut();
    const { bytes } = this;
    for (let i = bytes.length - 1; i > 0; i--) bytes[i - 1] += bytes[i] >> 8;
    return Uint8Array.from(bytes.slice(0, bytes.findLastIndex((byte) => byte & 255) + 1));
  }
}
