/**
 * The binary range decoder with adaptive probabilities of docs/FORMAT.md, "Binary decisions": alpha edges, step maps,
 * the mask of patches.
 */

import { CorruptError } from "./errors.js";

/** The probability of a 0 in each context, in 1/65536: fewer uses, faster adaptation. */
export const evenContexts = (count) => Array.from({ length: count }, () => ({ zero: 32768, shift: 1 }));

/** Makes a bit that was coded in a context more probable there. */
export function learn(own, bit) {
  own.zero += bit ? -(own.zero >> own.shift) : (65536 - own.zero) >> own.shift;
  if (own.shift < 6) own.shift++;
}

export class BinaryDecoder {
  /**
   * @param {Uint8Array} data
   * @param {number} contexts
   * @param {string} what  names the data in errors
   */
  constructor(data, contexts, what) {
    this.data = data;
    this.what = what;
    this.contexts = evenContexts(contexts);
    this.at = 0;
    this.code = 0;
    this.range = 2 ** 32 - 1;
    // Numbers below 2^53 and no 32-bit operators where a value may reach 2^31.
    for (let i = 0; i < 4; i++) this.code = this.code * 256 + this.next();
  }

  next() {
    const byte = this.at < this.data.length ? this.data[this.at] : 0;
    this.at++;
    return byte;
  }

  /** @param {number} context @returns {number} 0 or 1 */
  bit(context) {
    const own = this.contexts[context];
    const bound = (this.range >>> 16) * own.zero;
    const bit = Number(this.code >= bound);
    if (bit) this.code -= bound;
    this.range = bit ? this.range - bound : bound;
    learn(own, bit);
    while (this.range < 2 ** 24) {
      this.code = this.code * 256 + this.next();
      this.range *= 256;
    }
    if (this.code >= this.range) throw new CorruptError(`${this.what} holds a number outside its interval`);
    return bit;
  }

  /** Refuses bytes that go on, or are not the shortest for what was decoded. */
  finish() {
    const length = this.data.length;
    if (this.code || this.at < length || (length && this.data[length - 1] === 0))
      throw new CorruptError(`${this.what} does not end where its bytes end`);
  }
}
