/**
 * The binary range decoder with adaptive probabilities of docs/FORMAT.md, "Binary decisions": alpha edges, step maps,
 * the mask of patches.
 */

import { CorruptError } from "./errors.js";

export class BinaryDecoder {
  /**
   * @param {Uint8Array} data
   * @param {number} contexts
   * @param {string} what  names the data in errors
   */
  constructor(data, contexts, what) {
    this.data = data;
    this.what = what;
    this.zero = new Uint32Array(contexts).fill(32768);
    this.shift = new Uint8Array(contexts).fill(1);
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
    const zero = this.zero[context];
    const shift = this.shift[context];
    const bound = (this.range >>> 16) * zero;
    let bit = 0;
    if (this.code < bound) {
      this.range = bound;
      this.zero[context] = zero + ((65536 - zero) >> shift);
    } else {
      bit = 1;
      this.code -= bound;
      this.range -= bound;
      this.zero[context] = zero - (zero >> shift);
    }
    if (shift < 6) this.shift[context] = shift + 1;
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
