/**
 * What is refused, by the names that the runtime's errors have (runtime/sdrt/errors.py).
 */

/** The root of all of them: catch this to catch everything that is raised on purpose. */
export class SdrtError extends Error {
  get name() {
    return this.constructor.errorName;
  }
  // Not `constructor.name`: a minifier may shorten that.
  static errorName = "SdrtError";
}
/** The data is not an .sdl file at all. */
export class NotSdlError extends SdrtError {
  static errorName = "NotSdlError";
}
/** A valid file that this version cannot serve. */
export class UnsupportedError extends SdrtError {
  static errorName = "UnsupportedError";
}
/** A file that is truncated or altered. */
export class CorruptError extends SdrtError {
  static errorName = "CorruptError";
}
/** Larger than the limits allow. */
export class LimitError extends SdrtError {
  static errorName = "LimitError";
}
/** The pack is missing, altered, or has another latent space or prior. */
export class ModelError extends SdrtError {
  static errorName = "ModelError";
}
/** The inference engine is missing or fails. */
export class EngineError extends SdrtError {
  static errorName = "EngineError";
}
/** The file cannot be fetched or read. */
export class ImageError extends SdrtError {
  static errorName = "ImageError";
}
/** What was asked for cannot be. */
export class ArgumentError extends SdrtError {
  static errorName = "ArgumentError";
}
