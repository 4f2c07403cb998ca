    // Of `tile`, at the start of main: what this lane loads, vec4 `quad` of a step of the rows `x_first`, `w_first` and every
    // NEXT_X-th, NEXT_W-th from there; where it keeps that; and its place among the threads. Text, not functions: those cost
    // 8 registers.
    let quad = lane & #{QUADS - 1}u;
    let x_t = lane / #{QUADS}u % #{WIDE_X}u;
    let x_i = lane / #{QUADS}u / #{WIDE_X}u;
    let w_t = lane / #{QUADS}u % #{WIDE_W}u;
    let w_i = lane / #{QUADS}u / #{WIDE_W}u;
    let x_first = x_t * 4u + x_i * #{HEIGHT}u;
    let w_first = w_t * 4u + w_i * #{HEIGHT}u;
    let to_x = quad * #{TILE_M}u + x_i * #{WIDE_X}u + (x_t ^ (quad * #{SPREAD}u));
    let to_w = quad * #{TILE_N}u + w_i * #{WIDE_W}u + (w_t ^ (quad * #{SPREAD}u)) + #{OF_W}u;
    let tx = lane % #{TILE_N / TN}u;
    let ty = lane / #{TILE_N / TN}u * #{NEAR}u;
