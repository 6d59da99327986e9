import "./sdl/sdl_img.js";
