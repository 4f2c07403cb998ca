// A step of `tile`, inside the loop over k: stages x_I_H and w_I_H (load I of HEIGHT rows H) at `to_x` and `to_w`, and adds the
// products to acc_R_C (row R, four columns C). `steps` is how many fours of k there are.
        workgroupBarrier();
#for j in 0..HEIGHT
#for i in 0..LOADS_X
#if DEPTH == 4
        staged[to_x + #{i * THREADS / QUADS}u] = narrow(x_#{i}_0);
#else
        staged[to_x + #{i * THREADS / QUADS + j * DEPTH * WIDE_X}u] = narrow(vec4<f32>(x_#{i}_0[#{2 * j}], x_#{i}_0[#{2 * j + 1}], x_#{i}_1[#{2 * j}], x_#{i}_1[#{2 * j + 1}]));
#endif
#endfor
#for i in 0..LOADS_W
#if THREADS / QUADS > WIDE_W * DEPTH
        if lane < #{WIDE_W * DEPTH * QUADS}u {
#else
        {
#endif
#if DEPTH == 4
            staged[to_w + #{i * THREADS / QUADS}u] = narrow(w_#{i}_0);
#else
            staged[to_w + #{i * THREADS / QUADS + j * DEPTH * WIDE_W}u] = narrow(vec4<f32>(w_#{i}_0[#{2 * j}], w_#{i}_0[#{2 * j + 1}], w_#{i}_1[#{2 * j}], w_#{i}_1[#{2 * j + 1}]));
#endif
        }
#endfor
#endfor
        workgroupBarrier();
        // Unrolled by DEPTH * LINES, four or two: enough to hide the loop, and short enough for the instruction cache. Drivers
        // unroll the rest, unless the bound is only known at run time.
#if F16
        for (var q = 0u; q < min(#{QUADS}u, fours); q += 1u) {
#else
        for (var q = 0u; q < #{QUADS * HEIGHT / LINES}u; q += 1u) {
#endif
            let a = (ty ^ (q / #{HEIGHT / LINES}u * #{SPREAD}u)) + q * #{DEPTH * LINES * WIDE_X}u;
            let b = (tx ^ (q / #{HEIGHT / LINES}u * #{SPREAD}u)) + q * #{DEPTH * LINES * WIDE_W}u + #{OF_W}u;
#for j in 0..LINES
#for c in 0..TN / 4
#for i in 0..DEPTH
            let w_#{j}_#{c}_#{i} = vec4<f32>(staged[b + #{(j * DEPTH + i) * WIDE_W + c * (TILE_N / TN)}u]);
#endfor
            // Four columns at one k: no instructions, only other names.
#for d in 0..DEPTH
            let b_#{j}_#{d}_#{c} = vec4<f32>(w_#{j}_#{c}_0[#{d}], w_#{j}_#{c}_#{1 / HEIGHT}[#{1 % HEIGHT * DEPTH + d}], w_#{j}_#{c}_#{2 / HEIGHT}[#{2 % HEIGHT * DEPTH + d}], w_#{j}_#{c}_#{3 / HEIGHT}[#{3 % HEIGHT * DEPTH + d}]);
#endfor
#endfor
#for r in 0..TM
#if r % HEIGHT == 0
            let a_#{j}_#{r / HEIGHT} = vec4<f32>(staged[a + #{(j * DEPTH + r % 4 / HEIGHT) * WIDE_X + r / 4 * FAR}u]);
#endif
#for d in 0..DEPTH
#for c in 0..TN / 4
            acc_#{r}_#{c} = fma(vec4<f32>(a_#{j}_#{r / HEIGHT}[#{r % HEIGHT * DEPTH + d}]), b_#{j}_#{d}_#{c}, acc_#{r}_#{c});
#endfor
#endfor
#endfor
#endfor
        }
